# SPDX-License-Identifier: Apache-2.0

"""Restoration training: corruptions, structural map, learned comparison, scores of maxima, schedule."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import RESTORATION, make_model
from lightning.pytorch.callbacks import Callback
from scipy import ndimage
from torch import nn
from torch.nn.functional import interpolate

from anomalib_daad import Daad
from anomalib_daad.models.daad.lightning_model import annealed
from anomalib_daad.models.daad_restoration import corruption
from anomalib_daad.models.daad_restoration.comparison import Comparison
from anomalib_daad.models.daad_restoration.corruption import FOCUS, CorruptedImages, _centers, corrupt, relight
from anomalib_daad.models.daad_restoration.difference_maps import StructureMap


def draw(count: int = 8, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """Smooth coloured images in [-1, 1]."""
    return interpolate(torch.randn(count, 3, 5, 5), size, mode="bicubic").tanh()


# Corruptions.


def test_masks_tell_what_changed() -> None:
    images = draw(64)
    corrupted, masks = corrupt(images)
    for before, after, mask in zip(images.numpy(), corrupted.numpy(), masks.numpy(), strict=True):
        change = np.abs(after - before).mean(axis=0)
        visible = max(0.015, 0.08 * before.mean(axis=0).std(ddof=1))
        sure = np.abs(change - visible) > 1e-5
        np.testing.assert_array_equal((change > visible)[sure], mask[0][sure] == 1)
    assert corrupted.abs().max() <= 1
    whole = masks.flatten(1).mean(dim=1)
    assert (whole == 0).any()  # some stay good, which the scores are calibrated on
    assert 0.5 < (whole > 0).float().mean() < 1
    assert whole.max() < 0.95


def test_nothing_is_corrupted_where_nothing_shall_be() -> None:
    images = draw()
    corrupted = corrupt(images, share=0.0)
    assert torch.equal(corrupted.images, images)
    assert not corrupted.masks.any()


def test_the_seed_alone_decides() -> None:
    images = draw()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(corrupt(images).images)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.randn], ids=["grey", "white", "noise"])
def test_any_batch_can_be_corrupted(count, make) -> None:
    images = make(count, 3, 16, 24).clamp(-1, 1)
    for _ in range(5):
        corrupted: CorruptedImages = corrupt(images, share=1.0)
        assert corrupted.images.isfinite().all()
        assert corrupted.images.abs().max() <= 1 + 1e-6
        assert set(corrupted.masks.unique().tolist()) <= {0.0, 1.0}


def test_windows_lie_where_there_is_detail() -> None:
    images = torch.zeros(400, 3, 64, 64)
    images[:, :, 8:24, 40:56] = torch.randn(400, 3, 16, 16).clamp(-1, 1)  # a sixteenth of the image
    rows, columns = (x.flatten() * 64 for x in _centers(images))
    inside = (rows >= 4) & (rows < 28) & (columns >= 36) & (columns < 60)  # slopes reach into the next cells
    assert inside.float().mean() == pytest.approx(FOCUS + (1 - FOCUS) / 16, abs=0.06)
    rows, columns = (x.flatten() for x in _centers(torch.zeros(2000, 3, 64, 64)))  # anywhere where there is none
    for position in (rows, columns):
        counts = torch.histc(position, 4, 0, 1)
        assert counts.sum() == 2000
        assert counts.min() > 400


def test_specks_are_small_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw(64, (128, 128))
    largest, share = {}, {}
    for speckled in (0.0, 1.0):
        monkeypatch.setattr(corruption, "SPECKLED", speckled)
        masks = [mask[0].numpy() for mask in corruption._regions(images)]
        areas = [np.bincount(ndimage.label(mask)[0].ravel())[1:] for mask in masks]
        largest[speckled] = np.mean([area.max(initial=0) for area in areas]) / 128**2
        share[speckled] = np.array([mask.mean() for mask in masks])
    assert largest[1.0] < 0.015 < 0.03 < largest[0.0]
    assert share[1.0].min() > 0.0045
    assert share[1.0].max() < 0.1005
    assert np.std(share[1.0]) == pytest.approx(0.095 / 12**0.5, rel=0.25)  # drawn evenly, image by image


def test_a_grey_product_stays_grey() -> None:
    images = draw(16).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    for changed in (relight(images, 0.7, 1.5), corrupt(images, share=1.0).images):
        torch.testing.assert_close(changed, changed.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))


def test_light_changes_in_proportion_to_the_contrast() -> None:
    images = draw(256) * 0.1
    faint = images * 0.1
    moved = (relight(images, 0.0, 0.2) - images).abs().mean()
    assert (relight(faint, 0.0, 0.2) - faint).abs().mean() == pytest.approx(moved.item() * 0.1, rel=0.3)
    torch.testing.assert_close(relight(images, 0.0, 0.0), images)


# Structural map.


def structure_by_definition(first: np.ndarray, second: np.ndarray, scales: int) -> np.ndarray:
    """1 - GMS of grey values in [0, 1], gradients by SciPy's Prewitt filter, averaged over scales."""
    size, total = first.shape, 0.0
    for _ in range(scales):
        g, h = (np.hypot(*(ndimage.prewitt(x, axis, mode="nearest") / 3 for axis in (0, 1))) for x in (first, second))
        difference = torch.from_numpy(1 - (2 * g * h + 0.0026) / (g**2 + h**2 + 0.0026))[None, None]
        total = total + interpolate(difference, size, mode="bilinear")[0, 0].numpy() / scales
        first, second = (x.reshape(len(x) // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (first, second))
    return total


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_structure_map_agrees_with_its_definition(scales) -> None:
    images, reconstructions = draw(3, (32, 48)), draw(3, (32, 48))
    mapped = StructureMap(scales)(images, reconstructions)
    for index in range(3):
        grey = [(x[index].double().numpy().mean(axis=0) + 1) / 2 for x in (images, reconstructions)]
        np.testing.assert_allclose(mapped[index, 0], structure_by_definition(*grey, scales), atol=1e-5)


def test_structure_sees_edges_and_not_brightness() -> None:
    images = draw() * 0.5
    structure = StructureMap()
    assert structure(images, images).max() < 1e-9
    assert structure(images, images + 0.3).max() < 1e-6
    assert structure(images, torch.zeros_like(images)).max() > 0.5


# Learned comparison.


def test_the_comparison_does_not_train_the_autoencoder() -> None:
    model = make_model(**RESTORATION)
    output = model.model.train()(draw(4, (32, 32)))
    output.defects.sum().backward()
    assert all(weight.grad is None for weight in model.model.autoencoder.parameters())
    assert all(weight.grad is not None for weight in model.model.comparison.parameters())


def test_the_comparison_does_not_see_light() -> None:
    comparison = Comparison(8).eval()
    images, rebuilt = draw(4, (32, 32)), draw(4, (32, 32))
    with torch.no_grad():
        expected = comparison(images, rebuilt)
        torch.testing.assert_close(comparison(images * 0.6 - 0.3, rebuilt * 0.6 - 0.3), expected, atol=1e-4, rtol=1e-4)
        assert comparison(images, rebuilt * 0.6).sub(expected).abs().max() > 1e-3  # but a difference of the two


def test_the_comparison_learns_to_find_differences() -> None:
    comparison = Comparison(8)
    optimizer = torch.optim.Adam(comparison.parameters(), lr=1e-2)
    for _ in range(60):
        images = draw(8, (32, 32))
        corrupted, masks = corrupt(images)
        loss = nn.functional.binary_cross_entropy_with_logits(comparison(corrupted, images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    corrupted, masks = corrupt(images, share=1.0)
    with torch.no_grad():
        logits = comparison.eval()(corrupted, images)
    assert logits[masks == 1].mean() > logits[masks == 0].mean() + 1.5


# Standardised images.


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_more_or_less_light_is_restored_as_it_is(mode) -> None:
    autoencoder = getattr(make_model(standardize=True).model.autoencoder, mode)()
    images = draw(4, (32, 32))
    gain, bias = (
        torch.tensor([0.3, 0.8, 1.0, 1.5]).view(4, 1, 1, 1),
        torch.tensor([0.5, -0.2, 0.3, 0.0]).view(4, 1, 1, 1),
    )
    with torch.no_grad():
        expected = autoencoder(images) * gain + bias
        torch.testing.assert_close(autoencoder(images * gain + bias), expected, atol=1e-4, rtol=1e-4)


def test_standardised_images_have_equal_mean_and_contrast() -> None:
    autoencoder = make_model(standardize=True).model.autoencoder.eval()
    images, seen = draw(4, (32, 32)) * 0.2 - 0.6, []
    autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    autoencoder.decoder.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        rebuilt = autoencoder(images)
    entered, decoded = seen
    for image, x, y, result in zip(*(t.double().numpy() for t in (images, entered, decoded, rebuilt)), strict=True):
        assert x.mean() == pytest.approx(0, abs=1e-5)
        assert x.std() == pytest.approx(0.4, abs=1e-5)
        np.testing.assert_allclose(result, y / 0.4 * image.std() + image.mean(), atol=1e-5)


def test_bright_points_are_not_cut_off() -> None:
    autoencoder = make_model(standardize=True).model.autoencoder.eval()
    autoencoder.decoder.scales[-1][0].weight.data *= 1000
    with torch.no_grad():
        assert autoencoder(draw(4, (32, 32))).abs().max() > 10  # tanh would give 1 / 0.4 standard deviations at most


@pytest.mark.parametrize("distance", ["l2", "mse"])
@pytest.mark.parametrize("adversarial", [False, True])
def test_images_of_little_contrast_weigh_as_much_as_others(distance, adversarial) -> None:
    model = make_model(standardize=True, distance=distance, adversarial=adversarial, lambda_adv=0.0, lambda_ali=0.0)
    images = draw(4, (32, 32))
    gain, bias = torch.tensor([0.2, 0.8, 1.0, 1.5]).view(4, 1, 1, 1), 0.1
    with torch.no_grad():
        full, weak = (model.losses(x).losses[0] for x in (images, images * gain + bias))
        rebuilt = model.model.autoencoder(images)
    difference = (images - rebuilt).double().numpy() / images.double().numpy().std(axis=(1, 2, 3), keepdims=True) * 0.4
    squares = np.square(difference).reshape(4, -1)
    expected = np.sqrt(squares.sum(axis=1)) if distance == "l2" else squares.mean(axis=1)
    assert full.item() == pytest.approx(50 * expected.mean(), rel=1e-4)
    assert weak.item() == pytest.approx(full.item(), rel=1e-3)


def test_noise_of_flat_images_is_not_blown_up() -> None:
    autoencoder, seen = make_model(standardize=True).model.autoencoder.eval(), []
    autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    flat = torch.full((2, 3, 32, 32), 0.25)
    flat[1] += 1e-4 * torch.randn(3, 32, 32)
    with torch.no_grad():
        assert autoencoder(flat).isfinite().all()
    assert seen[0].abs().max() < 0.02


# The model.


@pytest.mark.parametrize("score", ["maximum_error", "maximum_structure"])
@pytest.mark.parametrize("comparison_channels", [0, 4])
def test_maxima_are_calibrated_on_good_images_alone(score, comparison_channels, make_datamodule, make_engine) -> None:
    model = make_model(**{**RESTORATION, "score": score, "comparison_channels": comparison_channels})
    datamodule = make_datamodule()
    make_engine(max_epochs=1).fit(model, datamodule=datamodule)
    maxima, learned = [], []
    for item in datamodule.val_data:
        if item.gt_label:
            continue
        with torch.no_grad():
            network = model.model.eval()
            image = model.pre_processor.transform(item.image[None])
            rebuilt = network.autoencoder(image)
            maxima.append(network.anomaly_map(image, rebuilt).max())
            if comparison_channels:
                learned.append(network.anomaly_map.blur(network.comparison(image, rebuilt)).max())
    torch.testing.assert_close(network.score.reconstruction_range, torch.stack(torch.stack(maxima).aminmax()))
    if comparison_channels:
        torch.testing.assert_close(network.score.alignment_range, torch.stack(torch.stack(learned).aminmax()))


def test_the_score_fuses_the_maxima_of_two_maps() -> None:
    network = make_model(**RESTORATION, gamma=0.3).model.eval()
    network.score.calibrate(torch.tensor([0.1, 0.3]), torch.tensor([-2.0, 3.0]))
    images = draw(4, (32, 32))
    with torch.no_grad():
        rebuilt = network.autoencoder(images)
        first = (network.anomaly_map(images, rebuilt) - 0.1) / 0.2
        second = (network.anomaly_map.blur(network.comparison(images, rebuilt)) + 2) / 5
    output = network(images)
    expected = [0.3 * a.max() + 0.7 * b.max() for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(output.pred_score, torch.stack(expected))
    torch.testing.assert_close(output.anomaly_map, 0.3 * first + 0.7 * second)


def test_without_validation_good_training_images_set_the_ranges(make_datamodule, make_engine) -> None:
    model = make_model(**RESTORATION)
    make_engine(max_epochs=4, limit_val_batches=0).fit(model, datamodule=make_datamodule(train_batch_size=8))
    assert model.model.score.reconstruction_range.isfinite().all()
    assert 0 < model.model.score.reconstruction_range[1] < 1
    assert model.model.score.alignment_range.isfinite().all()


def test_restoration_with_a_discriminator_compares_with_the_clean_images(monkeypatch) -> None:
    model = make_model(restoration=True)
    clean, seen = draw(4, (32, 32)), []
    monkeypatch.setattr("anomalib_daad.models.daad.lightning_model.relight", lambda images, *_: images)
    monkeypatch.setattr(
        "anomalib_daad.models.daad.lightning_model.corrupt",
        lambda images: CorruptedImages(-images, torch.ones_like(images[:, :1])),
    )
    model.model.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    result = model.losses(clean)
    corrupted, real, rebuilt = seen
    assert torch.equal(corrupted, -clean)
    assert torch.equal(real, clean)
    torch.testing.assert_close(result.terms.reconstruction, (clean - rebuilt).flatten(1).norm(dim=1))
    assert not len(result.scores.reconstruction)  # no image was good


def test_the_learning_rate_rises_and_falls(make_datamodule, make_engine) -> None:
    rates = [annealed(step, 200) for step in range(201)]
    top = int(np.argmax(rates))
    assert 10 <= top <= 20
    assert 0.95 < max(rates) <= 1
    assert rates[0] < 0.1
    assert 0 < rates[-1] < 1e-4
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    model = make_model(**RESTORATION)
    make_engine(max_steps=5).fit(model, datamodule=make_datamodule())
    assert model.lr_schedulers().last_epoch == 5
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(model.learning_rate * annealed(5, 5))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_restoration_equals_an_uninterrupted_one(optimizer, make_datamodule, make_engine, tmp_path) -> None:
    class Keep(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            del pl_module
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(path)

    path = tmp_path / "half.ckpt"
    options = {"standardize_maps": True, "error_map": True, "image_size": (64, 64), "downscale": 2}
    whole, resumed = (make_model(**RESTORATION, **options, optimizer=optimizer) for _ in range(2))
    make_engine(max_epochs=4, callbacks=[Keep()]).fit(whole, datamodule=make_datamodule())
    make_engine(max_epochs=4).fit(resumed, datamodule=make_datamodule(), ckpt_path=path)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert resumed.lr_schedulers().last_epoch == 12


def test_a_length_that_nobody_knows_is_refused(make_datamodule, make_engine) -> None:
    with pytest.raises(ValueError, match="set max_epochs or max_steps"):
        make_engine(max_epochs=-1).fit(make_model(**RESTORATION), datamodule=make_datamodule())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"comparison_channels": 4, "score": "maximum_error", "adversarial": False}, "set restoration=True"),
        ({"comparison_channels": 4, "restoration": True, "adversarial": False}, "beside a score of maxima"),
        ({"comparison_channels": 4, "restoration": True, "score": "maximum_error"}, "needs adversarial=False"),
        ({"comparison_channels": -1, "restoration": True}, "comparison_channels=-1"),
        ({"score": "best"}, "score must be one of"),
    ],
)
def test_options_that_exclude_each_other(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        Daad(**arguments)

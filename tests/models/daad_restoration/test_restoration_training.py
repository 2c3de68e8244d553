# SPDX-License-Identifier: Apache-2.0

"""Restoration training: its loss, what it learns from good images, and resuming."""

import numpy as np
import pytest
import torch
from conftest import assert_same_weights, make_restoration, weights
from lightning.pytorch.callbacks import Callback
from references import detail_by_pillow, draw, judged_by_definition, restored_by_definition

from anomalib_daad.models.daad_restoration.corruption import CorruptedImages
from anomalib_daad.models.daad_restoration.difference_maps import colour_error, relative_error

MODULE = "anomalib_daad.models.daad_restoration.lightning_model"


def leave_alone(monkeypatch: pytest.MonkeyPatch, masks: torch.Tensor | None = None) -> None:
    """Let training see images as they are, with masks of one's own."""
    monkeypatch.setattr(f"{MODULE}.random_shifts", lambda images, _: images)
    monkeypatch.setattr(f"{MODULE}.relight", lambda images, *_: images)
    monkeypatch.setattr(
        f"{MODULE}.corrupt",
        lambda images: CorruptedImages(images, torch.zeros_like(images[:, :1]) if masks is None else masks),
    )


def test_images_of_little_contrast_weigh_as_much_as_others(monkeypatch) -> None:
    leave_alone(monkeypatch)
    model = make_restoration().eval()
    images = draw(4, (64, 64)) * 0.5
    images[..., :32] += 0.3 * torch.randn(4, 3, 64, 32)  # rough on one side, so that detail has contrast too
    gain, bias = torch.tensor([0.2, 0.8, 1.0, 1.5]).view(4, 1, 1, 1), 0.1
    with torch.no_grad():
        full, weak = (model.losses(x).losses[0] for x in (images, images * gain + bias))
        seen = model.model.detail(images)
        logits = model.model.comparison(seen, model.model.restore(seen)).double()
    distances = []
    for image in images.double().numpy():
        small = detail_by_pillow(image, 2)
        error = small - restored_by_definition(model.model, small)
        contrast = np.array([small[:3].std()] * 3 + [small[3].std()])[:, None, None]
        distances.append(np.sqrt(np.square(error / contrast * 0.4).sum()))
    expected = 50 * np.mean(distances) + torch.log1p(torch.exp(logits)).mean().item()
    assert full.item() == pytest.approx(expected, rel=1e-4)
    assert weak.item() == pytest.approx(full.item(), rel=1e-3)


def test_corrupted_images_are_compared_with_the_clean_ones(monkeypatch) -> None:
    leave_alone(monkeypatch)
    monkeypatch.setattr(f"{MODULE}.corrupt", lambda images: CorruptedImages(images + 0.1, torch.ones(4, 1, 32, 32)))
    model, entered = make_restoration().eval(), []
    model.model.comparison.register_forward_pre_hook(lambda _, inputs: entered.append(inputs))
    clean = draw(4, (64, 64))
    seen = model.model.detail(clean)
    result = model.losses(clean)
    corrupted, restored = entered[0]
    torch.testing.assert_close(corrupted, seen + 0.1)
    torch.testing.assert_close(restored, model.model.restore(seen + 0.1))
    logged = (seen - restored).square().sum(dim=(1, 2, 3)).sqrt().mean()
    torch.testing.assert_close(result.logged["train_rec"], logged)
    assert len(result.losses) == 1
    assert not len(result.scores.reconstruction)  # no image was good


def test_only_images_without_corruption_are_learnt_from(monkeypatch) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(6, 1, 32, 32)
    masks[[1, 2, 5], 0, 3, 4] = 1
    leave_alone(monkeypatch, masks)
    model = make_restoration().train()
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        result = model.losses(images)
        seen = model.model.detail(images)
        output = model.model.restore_and_compare(seen)  # batch statistics: the same again
    good = masks.amax(dim=(1, 2, 3)) == 0
    found = [
        model.model.structure(seen[good], output.restorations[good]),
        output.defects[good],
        relative_error(seen[good], output.restorations[good]),
        colour_error(seen[good], output.restorations[good]),
    ]
    standardization, maps = model.model.standardization, model.model.blur(torch.cat(found, dim=1))
    assert standardization.count == 3
    torch.testing.assert_close(standardization.running_mean, maps.mean(dim=0, keepdim=True))
    torch.testing.assert_close(standardization.running_var, maps.var(dim=0, correction=0, keepdim=True))
    assert len(result.scores.reconstruction) == len(result.scores.alignment) == 3


def test_maxima_are_calibrated_on_good_images_alone(make_datamodule, make_engine) -> None:
    model, datamodule = make_restoration(placement_radius=0), make_datamodule()
    make_engine(max_epochs=1).fit(model, datamodule=datamodule)
    network, maxima, learned = model.model.eval(), [], []
    for item in datamodule.val_data:
        if not item.gt_label:
            image = model.pre_processor.transform(item.image[None])[0]
            _, first, second = judged_by_definition(network, image)
            maxima.append(first)
            learned.append(second)
    assert len(maxima) == 5
    for found, parts in ((network.score.reconstruction_range, maxima), (network.score.alignment_range, learned)):
        np.testing.assert_allclose(found, [min(parts), max(parts)], rtol=1e-3, atol=1e-3)


def test_without_validation_good_training_images_set_the_ranges(make_datamodule, make_engine) -> None:
    model, seen = make_restoration(), []
    losses = model.losses
    model.losses = lambda images: seen.append(losses(images)) or seen[-1]
    make_engine(max_epochs=4, limit_val_batches=0).fit(model, datamodule=make_datamodule(train_batch_size=8))
    score, latest = model.model.score, [result.scores for result in seen[-2:]]
    for part, found in (("reconstruction", score.reconstruction_range), ("alignment", score.alignment_range)):
        scores = torch.cat([getattr(one, part) for one in latest])
        assert len(scores)
        torch.testing.assert_close(found, torch.stack(scores.aminmax()))


def test_colours_and_detail_are_both_restored(make_datamodule, make_engine) -> None:
    model, datamodule = make_restoration(placement_radius=1), make_datamodule()
    datamodule.setup()
    images = torch.stack([item.image for item in datamodule.train_data])
    before = errors_of(model, images)
    make_engine(max_epochs=16).fit(model, datamodule=make_datamodule())
    after = errors_of(model, images)
    assert (after < 0.8 * before).all()
    assert model.model.registration.is_known


@torch.no_grad()
def errors_of(model, images: torch.Tensor) -> torch.Tensor:
    """Squared error of the colours and of the detail."""
    network = model.model.eval()
    small = network.detail(model.pre_processor(images))
    error = (small - network.restore(small)).square().mean(dim=(0, 2, 3))
    model.train()
    return torch.stack([error[:3].mean(), error[3]])


def test_a_resumed_restoration_equals_an_uninterrupted_one(make_datamodule, make_engine, tmp_path) -> None:
    class Keep(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            del pl_module
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(path)

    path = tmp_path / "half.ckpt"
    whole, resumed = make_restoration(), make_restoration()
    make_engine(max_epochs=4, callbacks=[Keep()]).fit(whole, datamodule=make_datamodule())
    make_engine(max_epochs=4).fit(resumed, datamodule=make_datamodule(), ckpt_path=path)
    assert_same_weights(weights(whole), weights(resumed))
    assert resumed.lr_schedulers().last_epoch == 12


@pytest.mark.parametrize(("size", "downscale"), [((64, 192), 4), ((128, 64), 2)])
def test_images_that_are_not_square_train(size, downscale, make_datamodule, make_engine) -> None:
    model = make_restoration(image_size=size, downscale=downscale)
    engine, datamodule = make_engine(max_steps=2), make_datamodule()
    engine.fit(model, datamodule=datamodule)
    assert engine.trainer.global_step == 2
    model.eval()
    batch = model(torch.rand(3, 3, 48, 40))
    assert batch.pred_score.shape == (3,)
    assert batch.anomaly_map.shape == (3, 1, *size)
    assert batch.pred_score.isfinite().all()
    predictions = engine.predict(model, datamodule=datamodule)
    assert all(batch.pred_score.isfinite().all() for batch in predictions)


def test_a_learning_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        make_restoration(learning_rate=0.0)

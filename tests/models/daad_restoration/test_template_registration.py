# SPDX-License-Identifier: Apache-2.0

"""Parts that look like the mean of the training images are moved to where that mean has them."""

import math

import numpy as np
import pytest
import torch
from conftest import make_restoration
from references import detail_by_pillow, moved_by_loop, restored_by_definition, turned_by_scipy
from torch import nn

from anomalib_daad import DaadRestoration, load_safetensors, save_safetensors
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.daad_restoration.light import CONTRAST
from anomalib_daad.models.daad_restoration.movement import move
from anomalib_daad.models.daad_restoration.template_registration import LIKENESS, RECALL, TemplateRegistration

SIZE = (24, 30)
TURNS = (0.0, -4.0, -2.0, 2.0, 4.0)


def parts(count: int = 12, noise: float = 0.05, turned: bool = False) -> torch.Tensor:
    """A part with corners and its detail, seen in noise, ``(count, 4, H, W)``; turned by quarters, or always alike."""
    torch.manual_seed(0)
    part = torch.zeros(4, *SIZE) - 0.3
    part[:3, 7:13, 8:20] += torch.tensor([1.0, 0.5, -0.5])[:, None, None]
    part[:3, 10:18, 8:12] += 0.7
    images = [part.rot90(2 * (k % 2), (1, 2)) if turned else part for k in range(count)]
    return torch.stack(images or [part])[:count] + noise * torch.randn(count, 4, *SIZE)


def learnt(images: torch.Tensor, radius: int = 4) -> TemplateRegistration:
    registration = TemplateRegistration(SIZE, radius)
    registration.learn(images)
    return registration


def mean_and_weights(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    variance = np.mean([[np.var(images[:, c], axis=0)] for c in range(3)], axis=(0, 1))
    weights = 1 / (variance + variance.mean() / 4)
    return images.mean(axis=0), weights / weights.mean()


def found_by_loop(image: np.ndarray, mean: np.ndarray, weights: np.ndarray, radius: int) -> tuple[int, int, float]:
    """Try every movement and every turn of the mean, one by one.

    None is made that does not bring the image nearer by a thousandth, none turned that does not by a tenth.
    """
    turns = {degrees: [turned_by_scipy(it, degrees) for it in (mean, weights[None])] for degrees in TURNS}
    distances = {}
    for rows in range(-radius, radius + 1):
        for columns in range(-radius, radius + 1):
            moved = moved_by_loop(image, rows, columns)
            for degrees, (turned, weighs) in turns.items():
                distance = (weighs * np.square(moved - turned)[:3]).sum()
                distances[rows, columns, -degrees] = distance / (0.9 if degrees else 1)
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] < 0.999 * distances[0, 0, 0.0] else (0, 0, 0.0)


@pytest.mark.parametrize("radius", [1, 3, 4])
def test_the_movement_is_the_best_of_all_that_a_loop_tries(radius) -> None:
    training = parts()
    registration = learnt(training, radius)
    mean, weights = mean_and_weights(training.double().numpy())
    np.testing.assert_allclose(registration.template[0], mean, atol=1e-6)
    np.testing.assert_allclose(registration.weights[0, 0], weights, rtol=1e-4)
    moves = torch.randint(-5, 6, (2, 20))
    turned = torch.from_numpy(np.stack([turned_by_scipy(it, 3.5) for it in parts(6).double().numpy()])).float()
    # Anything has a best movement.
    images = torch.cat([move(parts(20, 0.3), *moves), turned, torch.randn(14, 4, *SIZE)])
    found = registration(images)
    expected = [found_by_loop(image, mean, weights, radius) for image in images.double().numpy()]
    assert list(zip(*(values.tolist() for values in found), strict=True)) == expected
    assert len(set(expected)) > 3
    assert [degrees for *_, degrees in expected[20:26]] == [-4.0] * 6


def test_a_part_that_looks_alike_all_round_is_never_turned() -> None:
    rows, columns = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(30) - 14.5, indexing="ij")
    disc = torch.where(torch.hypot(rows, columns) < 8, 1.0, -0.3).expand(12, 4, -1, -1)
    registration = learnt(disc + 0.2 * torch.randn(12, 4, *SIZE))
    assert registration.is_known
    assert not registration(disc + 0.2 * torch.randn(12, 4, *SIZE)).degrees.any()


def test_detail_is_not_looked_at() -> None:
    registration, images = learnt(parts()), parts(3, 0.2)
    other = torch.cat([images[:, :3], torch.randn(3, 1, *SIZE)], dim=1)
    assert all(map(torch.equal, registration(images), registration(other)))


def test_what_is_no_nearer_elsewhere_stays() -> None:
    assert not torch.stack(learnt(parts())(torch.full((2, 4, *SIZE), 0.3))).any()


def recall_and_likeness_by_loop(images: np.ndarray, radius: int) -> tuple[float, float]:
    mean, weights = mean_and_weights(images[::2])
    others = images[1::2]
    directions = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    back = []
    for index, image in enumerate(others):
        step = [min(3, radius) * it for it in directions[index % 8]]
        own = found_by_loop(image, mean, weights, radius)
        found = found_by_loop(moved_by_loop(image, *step), mean, weights, radius)
        wanted = [max(-radius, min(radius, o - s)) for o, s in zip(own[:2], step, strict=True)]
        back.append(all(abs(f - w) <= 1 for f, w in zip(found[:2], wanted, strict=True)))
    shown = 1 - np.square((others - mean)[:, :3]).sum() / np.square(others[:, :3]).sum()
    return float(np.mean(back)), shown


@pytest.mark.parametrize("radius", [2, 4])
@pytest.mark.parametrize("noise", [0.1, 1.5])
@pytest.mark.parametrize("turned", [False, True])
def test_one_half_of_the_images_says_what_the_mean_of_the_other_is_worth(noise, turned, radius) -> None:
    images = parts(21, noise, turned)
    registration = learnt(images, radius)
    recall, likeness = recall_and_likeness_by_loop(images.double().numpy(), radius)
    assert registration.recall.item() == pytest.approx(recall)
    assert registration.likeness.item() == pytest.approx(likeness, abs=1e-4)


def test_parts_that_lie_alike_are_registered_and_nothing_else() -> None:
    torch.manual_seed(0)
    assert learnt(parts()).is_known
    assert not learnt(torch.randn(12, 4, *SIZE)).is_known  # a texture
    ramp = torch.linspace(-1, 1, SIZE[1]).expand(12, 4, *SIZE) + 0.1 * torch.randn(12, 4, *SIZE)
    shaded = learnt(ramp)  # by the same light
    assert shaded.likeness > LIKENESS
    assert not shaded.is_known
    angles = torch.arange(40) * 0.7
    rows, columns = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(30) - 14.5, indexing="ij")
    across = (columns * angles.cos()[:, None, None] + rows * angles.sin()[:, None, None]).abs()
    rods = torch.where(across < 2, 1.0, -0.3)[:, None].expand(-1, 4, -1, -1)
    assert not learnt(rods).is_known  # turned in all directions


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_images_say_nothing(count) -> None:
    registration = learnt(parts(count))
    assert not registration.is_learnt
    assert not registration.is_known


def test_both_measures_must_hold() -> None:
    registration = learnt(parts())
    for recall, likeness, known in ((RECALL, LIKENESS, True), (0.9, 0.9, False), (1.0, 0.4, False)):
        registration.recall.fill_(recall)
        registration.likeness.fill_(likeness)
        assert registration.is_known == known
    registration.forget()
    assert math.isnan(registration.recall)
    assert not registration.is_known


# In the detector.


@pytest.fixture
def registered() -> nn.Module:
    """A network with random weights that has learnt where its part lies."""
    torch.manual_seed(0)
    network = make_restoration(placement_radius=5).eval().requires_grad_(False).model
    network.registration.learn(_seen(_pictures(8)))
    network.standardization.running_mean.copy_(3 * torch.randn(1, 5, 32, 32))  # usual is something else at each place
    network.standardization.running_var.copy_(0.1 + torch.rand(1, 5, 32, 32))
    network.score.calibrate(torch.tensor([0.0, 2.0]), torch.tensor([-5.0, 5.0]))
    assert network.registration.is_known
    return network


def _pictures(count: int) -> torch.Tensor:
    part = torch.full((3, 64, 64), -0.5)
    part[:, 20:40, 24:34] = torch.tensor([0.8, 0.1, -0.9])[:, None, None]
    part[:, 20:26, 24:44] = 0.6
    return part + 0.02 * torch.randn(count, 3, 64, 64)


def _seen(images: torch.Tensor) -> torch.Tensor:
    """Images as the networks see them, at equal light, by NumPy."""
    return torch.from_numpy(np.stack([at_equal_light(detail_by_pillow(image.numpy(), 2)) for image in images])).float()


def at_equal_light(seen: np.ndarray) -> np.ndarray:
    parts = [(part - part.mean()) / part.std() * CONTRAST for part in (seen[:3], seen[3:])]
    return np.concatenate(parts)


def test_an_image_is_restored_where_the_template_has_its_part(registered) -> None:
    images = move(_pictures(4), torch.tensor([0, 6, -8, 2]), torch.tensor([0, -4, 8, 10]))
    placed = registered.place(images)
    assert list(zip(placed.rows.tolist(), placed.columns.tolist(), strict=True)) == [(0, 0), (-3, 2), (4, -4), (-1, -5)]
    template = registered.registration.template[0].numpy()
    for image, rows, columns, got, restored in zip(images, placed.rows, placed.columns, *placed[:2], strict=True):
        seen = detail_by_pillow(image.numpy(), 2)
        expected = np.empty_like(seen)
        for c, channels in enumerate([slice(3)] * 3 + [slice(3, 4)]):
            own = seen[channels]
            ground = template[c] * own.std() / CONTRAST + own.mean()  # what is not in the image is the template's
            for r in range(32):
                for k in range(32):
                    is_inside = 0 <= r - rows < 32 and 0 <= k - columns < 32
                    expected[c, r, k] = seen[c, r - rows, k - columns] if is_inside else ground[r, k]
        np.testing.assert_allclose(got, expected, atol=1e-4)
        np.testing.assert_allclose(restored, restored_by_definition(registered, expected), atol=1e-3)


def test_where_an_image_lies_changes_neither_score_nor_map(registered) -> None:
    image = _pictures(1)
    image[:, :, 30:34, 26:30] = 1.0  # a defect
    moved = move(image, torch.tensor([6]), torch.tensor([-4]))
    here, there = registered(image), registered(moved)
    assert there.pred_score.item() == pytest.approx(here.pred_score.item(), rel=0.02)
    registered.registration.forget()
    assert registered(moved).pred_score.item() != pytest.approx(here.pred_score.item(), rel=0.02)
    peaks = [divmod(int(output.anomaly_map.argmax()), 64) for output in (here, there)]
    assert (peaks[1][0] - peaks[0][0], peaks[1][1] - peaks[0][1]) == (6, -4)


def test_a_turned_image_is_turned_back_and_its_map_with_it(registered) -> None:
    image = _pictures(1)
    image[:, :, 12:16, 46:50] = 1.0  # a defect far from the centre
    turned = torch.from_numpy(turned_by_scipy(image[0].double().numpy(), 4.0)).float()[None]
    placed = registered.place(turned)
    assert placed.degrees.tolist() == [-4.0]
    seen, as_it_lies = registered.detail(image), registered.detail(turned)
    misses = [(it - seen)[:, :3].abs().mean() for it in (placed.images, as_it_lies)]
    assert misses[0] < 0.75 * misses[1]  # edges are blurred twice
    here, there = registered(image), registered(turned)
    mapped = turned_by_scipy(here.anomaly_map[0].double().numpy(), 4.0)
    strongest = [np.unravel_index(it.argmax(), it.shape)[1:] for it in (mapped, there.anomaly_map[0].numpy())]
    np.testing.assert_allclose(strongest[0], strongest[1], atol=2)


def test_the_rewritten_network_registers_alike(registered) -> None:
    registered.placement.growth.fill_(9.0)  # a place that is known both ways is registered
    images = move(_pictures(3), torch.tensor([0, 4, -6]), torch.tensor([2, 0, 4]))
    images[2] = torch.from_numpy(turned_by_scipy(images[2].double().numpy(), 4.0)).float()
    assert registered.place(images).degrees.tolist() == [0.0, 0.0, -4.0]
    rewritten = for_inference(registered)
    assert rewritten.placement is None
    assert rewritten.registration.is_settled
    torch.testing.assert_close(rewritten(images).pred_score, registered(images).pred_score, atol=1e-4, rtol=0)
    registered.registration.forget()
    assert for_inference(registered).registration is None
    assert for_inference(registered).placement is not None


def test_training_learns_from_each_image_of_the_first_epoch_once(make_datamodule, make_engine) -> None:
    model, datamodule = make_restoration(), make_datamodule(train_batch_size=5)
    make_engine(max_epochs=3).fit(model, datamodule=datamodule)
    images = torch.stack([model.pre_processor.transform(item.image) for item in datamodule.train_data])
    seen = _seen(images)
    torch.testing.assert_close(model.model.registration.template[0], seen.mean(dim=0), atol=2e-3, rtol=0)
    assert model._first_images is None


def test_another_training_learns_another_template_and_a_resumed_one_none(
    make_datamodule, make_engine, monkeypatch, tmp_path
) -> None:
    model, datamodule, learn, counts = make_restoration(), make_datamodule(), TemplateRegistration.learn, []
    monkeypatch.setattr(
        TemplateRegistration, "learn", lambda self, images: counts.append(len(images)) or learn(self, images)
    )
    engine = make_engine(max_epochs=2)
    engine.fit(model, datamodule=datamodule)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    count = len(datamodule.train_data)
    assert counts == [count]
    make_engine(max_epochs=3).fit(make_restoration(), datamodule=make_datamodule(), ckpt_path=tmp_path / "model.ckpt")
    assert counts == [count]
    make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())
    assert counts == [count, count]


def test_a_validation_before_the_first_epoch_ends_has_a_template(make_datamodule, make_engine) -> None:
    model = make_restoration()
    make_engine(max_steps=2).fit(model, datamodule=make_datamodule(train_batch_size=4))
    assert model.model.registration.is_learnt


def test_files_of_a_version_without_templates_are_read(registered, make_datamodule, make_engine, tmp_path) -> None:
    model = make_restoration(placement_radius=2)
    engine = make_engine(max_steps=2)
    engine.fit(model, datamodule=make_datamodule())
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=False)
    gone = [key for key in content["state_dict"] if ".registration." in key]
    assert len(gone) == 4
    for key in gone:
        del content["state_dict"][key]
    torch.save(content, tmp_path / "earlier.ckpt")
    earlier = DaadRestoration.load_from_checkpoint(tmp_path / "earlier.ckpt")
    assert not earlier.model.registration.is_learnt
    known = make_restoration(placement_radius=4)
    known.model.registration.recall.fill_(1.0)
    known.model.registration.likeness.fill_(1.0)
    state = {key: value for key, value in known.state_dict().items() if ".registration." not in key}
    completed = known.complete(state)
    assert completed.keys() == known.state_dict().keys()
    assert completed["model.registration.recall"].isnan()  # not that of the training before
    assert known.model.placement.radius == 4  # as it searched then
    assert make_restoration(placement_radius=4).model.placement.radius == 2
    assert torch.equal(earlier.model.autoencoder.memories[0].items, model.model.autoencoder.memories[0].items)
    again = load_safetensors(save_safetensors(earlier, tmp_path / "model.safetensors"))
    assert not again.model.registration.is_learnt
    state = registered.__getstate__()
    state["_modules"] = {name: part for name, part in state["_modules"].items() if name != "registration"}
    pickled = type(registered).__new__(type(registered))
    pickled.__setstate__(state)
    assert pickled(torch.rand(1, 3, 64, 64)).pred_score.isfinite().all()

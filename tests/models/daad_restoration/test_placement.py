# SPDX-License-Identifier: Apache-2.0

"""Images are judged where the network restores them best, if training images have a place of their own."""

import copy

import cv2
import numpy as np
import pytest
import torch
from conftest import make_restoration
from lightning.pytorch.callbacks import Callback
from references import detail_by_pillow, judged_by_definition, moved_by_loop, resize, restored_by_definition

from anomalib_daad.commands.inspect.images import InspectedImage
from anomalib_daad.commands.inspect.observation import look
from anomalib_daad.commands.shared.model_picture import expected_picture
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.daad_restoration import template_registration
from anomalib_daad.models.daad_restoration.movement import move, random_shifts
from anomalib_daad.models.daad_restoration.placement import KNOWN, PlacementSearch

SIZE = (24, 32)


def blob() -> torch.Tensor:
    """A smooth part on plain ground, ``(3, H, W)``, that may move by some pixels without leaving the image."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]) - 11.0, torch.arange(SIZE[1]) - 14.0, indexing="ij")
    part = (torch.exp(-((rows / 4) ** 2) - (columns / 5) ** 2) - 0.02).clamp_min(0)
    return torch.stack([part, 0.5 * part, -part])


def restore_blob(images: torch.Tensor) -> torch.Tensor:
    """A network that knows one image by heart and gives a little of what it sees."""
    return 0.9 * blob().expand(len(images), -1, -1, -1) + 0.1 * images


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_every_movement_within_the_radius_is_undone(radius) -> None:
    offsets = [(r, c) for r in range(-radius, radius + 1) for c in range(-radius, radius + 1)]
    images = torch.stack([torch.from_numpy(moved_by_loop(blob().numpy(), *offset)) for offset in offsets])
    placed, restored, rows, columns, _ = PlacementSearch(radius)(images, restore_blob)
    assert list(zip((-rows).tolist(), (-columns).tolist(), strict=True)) == offsets
    torch.testing.assert_close(placed, blob().expand_as(images))
    torch.testing.assert_close(restored, restore_blob(placed))


def test_a_movement_beyond_the_radius_is_undone_as_far_as_it_goes() -> None:
    image = torch.from_numpy(moved_by_loop(blob().numpy(), 3, -4))[None]
    _, _, rows, columns, _ = PlacementSearch(2)(image, restore_blob)
    assert (rows.item(), columns.item()) == (-2, 2)


def side_by_solving(image: np.ndarray, restored: np.ndarray) -> tuple[int, int]:
    """Signs of the movement that makes an image most like its restoration, by a linear system of all inner pixels."""
    middle = (image.astype(np.float64) + restored) / 2
    slopes = [slope[:, 1:-1, 1:-1].ravel() for slope in np.gradient(middle, axis=(1, 2))]
    matrix = np.stack(slopes, axis=1)
    squares = matrix.T @ matrix
    difference = (image.astype(np.float64) - restored)[:, 1:-1, 1:-1].ravel()
    movement = np.linalg.solve(squares + 5e-4 * np.trace(squares) * np.eye(2), matrix.T @ difference)
    return tuple(1 if value >= 0 else -1 for value in movement)


def found_by_loop(image: torch.Tensor, restore, radius: int) -> tuple[int, int]:
    """Step by step to the best of the three places on the side where the restoration is, every one restored anew."""

    def attempt(place: tuple[int, int]) -> tuple[float, tuple[int, int], np.ndarray, np.ndarray]:
        moved = torch.from_numpy(moved_by_loop(image.numpy(), *place))
        restored = restore(moved[None])[0]
        return (moved - restored).square().mean().item(), place, moved.numpy(), restored.numpy()

    best = attempt((0, 0))
    for _ in range(radius):
        row, column = best[1]
        down, right = side_by_solving(*best[2:])
        tried = [
            attempt(place) for place in ((row + down, column), (row, column + right), (row + down, column + right))
        ]
        best = min([best, *tried], key=lambda it: it[0])
    return best[1]


@pytest.mark.parametrize("slant", [0, 1, -1])
@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_the_search_tries_the_side_where_the_restoration_is(radius, slant) -> None:
    torch.manual_seed(0)
    network, counts = torch.nn.Conv2d(3, 3, 5, padding=2).requires_grad_(False), []

    def restore(images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images) / 40)
        return network(images)

    noise = torch.rand(40, 3, *SIZE)
    images = torch.stack([noise.roll((k, k * slant), (2, 3)) for k in range(6 if slant else 1)]).mean(dim=0)  # streaks
    _, _, rows, columns, _ = PlacementSearch(radius)(images, restore)
    assert counts == [1] + [3] * radius
    found = [found_by_loop(image, network, radius) for image in images]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == found
    assert len(set(found)) > 3


@pytest.mark.parametrize("followed", [0.1, 0.7, 0.9])
def test_a_network_that_follows_the_part_most_of_the_way_is_enough(followed) -> None:
    offsets = [(r, c) for r in (-2, 0, 1) for c in (-1, 0, 2)]
    images = torch.stack([torch.from_numpy(moved_by_loop(blob().numpy(), *offset)) for offset in offsets])
    search = PlacementSearch(2)(images, lambda x: (1 - followed) * blob().expand_as(x[:1]) + followed * x)
    assert list(zip((-search.rows).tolist(), (-search.columns).tolist(), strict=True)) == offsets


def test_movements_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 2, 7, 9)
    rows, columns = torch.tensor([0, 3, -2, 9, -1]), torch.tensor([0, -4, 1, 0, -20])
    expected = [moved_by_loop(image.numpy(), int(r), int(c)) for image, r, c in zip(images, rows, columns, strict=True)]
    np.testing.assert_array_equal(move(images, rows, columns).numpy(), np.stack(expected))


def test_what_is_restored_equally_well_anywhere_stays() -> None:
    _, _, rows, columns, _ = PlacementSearch(2)(torch.rand(3, 3, *SIZE), lambda images: images)
    assert not rows.any()
    assert not columns.any()


def test_growth_is_that_of_a_loop() -> None:
    torch.manual_seed(0)
    images = blob() + 0.05 * torch.randn(4, 3, *SIZE)
    expected = []
    for image in images.numpy():
        errors = {}
        for offset in [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]:
            candidate = moved_by_loop(image, *offset)
            errors[offset] = np.mean((candidate - restore_blob(torch.from_numpy(candidate)[None])[0].numpy()) ** 2)
        own = errors.pop((0, 0))
        expected.append(np.mean(list(errors.values())) / own)
    np.testing.assert_allclose(PlacementSearch(1).measure_growth(images, restore_blob), expected, rtol=1e-4)


def known(growth: float = 10.0, radius: int = 2):
    """A network with a search, as if it had learnt the place of its training images or not."""
    torch.manual_seed(0)
    model = make_restoration(placement_radius=radius).eval().model
    if radius:
        model.placement.growth.fill_(growth)
    model.standardization.train()(torch.randn(30, 5, 32, 32) * torch.rand(5, 32, 32) + torch.randn(5, 32, 32))
    model.standardization.eval()
    model.score.calibrate(torch.tensor([0.0, 2.0]), torch.tensor([-5.0, 5.0]))
    return model


def test_scores_and_maps_are_those_of_the_image_in_its_place() -> None:
    model = known()
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    _, _, rows, columns, _ = model.place(images)
    assert rows.any() or columns.any()
    output, scores = model(images), model.scores(images)
    for index, image in enumerate(images):
        maps, first, second = judged_by_definition(model, image, int(rows[index]), int(columns[index]))
        assert scores.reconstruction[index].item() == pytest.approx(first, abs=1e-3)
        assert scores.alignment[index].item() == pytest.approx(second, abs=1e-3)
        structure, detail, comparison, error, colour = maps
        fused = 0.5 * ((structure + detail) / 2 + 2 * error + colour / 4) / 2 + 0.5 * (comparison + 5) / 10
        np.testing.assert_allclose(output.anomaly_map[index, 0], resize(fused, 64, 64), rtol=1e-3, atol=1e-3)
        expected = 0.5 * first / 2 + 0.5 * (second + 5) / 10
        assert output.pred_score[index].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("growth", [float("nan"), 0.9 * KNOWN])
def test_without_a_known_place_nothing_is_moved(growth) -> None:
    model = known(growth)
    plain = copy.deepcopy(model)
    plain.placement = None
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    for a, b in zip(model(images), plain(images), strict=True):
        assert torch.equal(a, b) if a is not None else b is None
    assert for_inference(model).placement is None


def test_pictures_show_the_restoration_where_the_image_lies() -> None:
    model = make_restoration().eval()
    model.model.placement.growth.fill_(10.0)
    movements = []
    for picture in np.random.default_rng(0).random((6, 64, 64, 3)).astype(np.float32):
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        image = 2 * pixels - 1
        _, _, rows, columns, _ = model.model.place(image[None])
        rows, columns = int(rows), int(columns)
        movements.append((rows, columns))
        seen = detail_by_pillow(image.numpy(), 2)
        restored = restored_by_definition(model.model, moved_by_loop(seen, rows, columns))[:3]
        small = moved_by_loop(restored, -rows, -columns) / 2 + 0.5
        before = seen[:3] / 2 + 0.5
        expected, enlarged = (
            np.stack([resize(one, 64, 64) for one in it]).clip(0, 1).transpose(1, 2, 0) for it in (small, before)
        )
        close_up = look(model, InspectedImage("name", pixels, defective=False, mask=None))
        np.testing.assert_allclose(close_up.image, picture, atol=1e-6)
        np.testing.assert_allclose(close_up.reconstruction, expected, atol=1e-5)
        np.testing.assert_allclose(close_up.error, np.abs(enlarged - expected).mean(axis=2), atol=1e-5)
        shown = small.clip(0, 1).transpose(1, 2, 0)
        enlarged = cv2.resize(shown.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(expected_picture(model, picture.astype(np.float32)), enlarged, atol=1e-5)
    assert any(movement != (0, 0) for movement in movements)


def test_the_rewritten_network_searches_alike() -> None:
    model = known()
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    rewritten = for_inference(model)
    torch.testing.assert_close(rewritten(images).pred_score, model(images).pred_score, atol=1e-4, rtol=0)
    assert rewritten.placement.is_settled
    assert not model.placement.is_settled


@pytest.fixture
def unregistered(monkeypatch) -> None:
    """Parts whose mean looks like none of them."""
    monkeypatch.setattr(template_registration, "LIKENESS", 2.0)


@pytest.mark.usefixtures("unregistered")
def test_the_search_does_not_change_training(make_datamodule, make_engine) -> None:
    weights = []
    for radius in (0, 1):
        model = make_restoration(placement_radius=radius)
        make_engine(max_epochs=2).fit(model, datamodule=make_datamodule())
        weights.append({name: value for name, value in model.model.state_dict().items() if "_range" not in name})
    assert weights[1].pop("placement.growth") > 0
    for name in [name for name in weights[1] if name.startswith("registration.")]:
        del weights[1][name]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize("validated", [True, False])
def test_training_learns_whether_there_is_a_place(validated, make_datamodule, make_engine, tmp_path) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            del trainer
            self.images = pl_module._latest_images

    model, latest = make_restoration(placement_radius=1), Keep()
    arguments = {} if validated else {"limit_val_batches": 0}
    engine = make_engine(max_epochs=3, callbacks=[latest], **arguments)
    engine.fit(model, datamodule=make_datamodule(train_batch_size=12))
    measured = model.model.placement.growth.clone()
    images = latest.images
    assert len(images) == 12
    seen = model.eval().model.detail(images)
    expected = PlacementSearch(1).measure_growth(seen, model.model.restore).median()
    torch.testing.assert_close(measured, expected)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(type(model).load_from_checkpoint(tmp_path / "model.ckpt").model.placement.growth, measured)


def test_a_negative_radius_is_refused() -> None:
    with pytest.raises(
        ValueError, match="placement_radius must be a whole number of pixels, 0 for as images are, or None, got -1"
    ):
        make_restoration(placement_radius=-1)


# Training images are moved at random.


def test_each_image_is_moved_on_its_own_with_its_borders_repeated() -> None:
    torch.manual_seed(0)
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    moved = random_shifts(image.expand(500, -1, -1, -1), 2)
    padded = np.pad(image[0, 0].numpy(), 2, mode="edge")
    variants = [padded[2 - r : 6 - r, 2 - c : 7 - c] for r in (-2, -1, 0, 1, 2) for c in (-2, -1, 0, 1, 2)]
    counts = [int((moved[:, 0].numpy() == variant).all(axis=(1, 2)).sum()) for variant in variants]
    assert sum(counts) == 500
    assert min(counts) > 5


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(("downscale", "most"), [(2, 1), (4, 2), (8, 4)])
def test_a_training_sees_moved_images_and_judges_places_by_unmoved_ones(
    downscale, most, make_datamodule, make_engine, monkeypatch
) -> None:
    shifts, seen, measured = [], [], []
    module = "anomalib_daad.models.daad_restoration.lightning_model"
    monkeypatch.setattr(f"{module}.random_shifts", lambda images, most: shifts.append((images, most)) or -images)
    monkeypatch.setattr(f"{module}.relight", lambda images, *_: seen.append(images) or images)
    size = (16 * downscale, 16 * downscale)
    model = make_restoration(image_size=size, downscale=downscale, placement_radius=1)
    monkeypatch.setattr(
        model.model.placement, "measure_growth", lambda images, _: measured.append(images) or torch.ones(1)
    )
    make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())
    assert len(seen) == len(shifts) == 3
    for trained, (images, _) in zip(seen, shifts, strict=True):
        torch.testing.assert_close(trained, model.model.detail(-images))
    assert {most for _, most in shifts} == {most}
    torch.testing.assert_close(measured[-1], model.model.detail(shifts[-1][0]))

# SPDX-License-Identifier: Apache-2.0

"""Large images in tiles: what is cut and joined, seams, memory, exports, and what is learnt from good images."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.deploy import ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from conftest import as_if_trained, make_restoration, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, interpolate, pad

from anomalib_daad import load_safetensors, save_safetensors
from anomalib_daad.commands.inspect.observation import scale_of
from anomalib_daad.models.daad_restoration import DaadRestoration, RestorationModel, tiles
from anomalib_daad.models.daad_restoration.further_training import as_if_old, standardize_by_both
from anomalib_daad.models.daad_restoration.tiles import Tiling, random_crops

UNIT = 32  # pixels, at a downscale of two
SEAM = 112  # pixels: the middle of what two tiles of 128 share in an image of 224


# Cutting and joining.


def shares(length: int, tile: int, unit: int) -> tuple[list[int], np.ndarray]:
    """Where tiles start, and the share of each in each pixel, by a loop over both; in units, but for the pixels."""
    shared = max(1, tile // 4)
    count = 1
    while tile + (count - 1) * (tile - shared) < length:
        count += 1
    starts = [0] if count == 1 else [round((length - tile) * number / (count - 1)) for number in range(count)]
    share = np.zeros((count, length * unit))
    for number, start in enumerate(starts):
        for pixel in range(start * unit, (start + tile) * unit):
            rise = fall = 1.0
            if number:
                middle = (start + starts[number - 1] + tile) / 2 * unit
                rise = np.clip((pixel + 0.5 - middle) / (shared * unit / 2) + 0.5, 0, 1)
            if number + 1 < count:
                middle = (starts[number + 1] + start + tile) / 2 * unit
                fall = np.clip((middle - pixel - 0.5) / (shared * unit / 2) + 0.5, 0, 1)
            share[number, pixel] = min(rise, fall)
    return starts, share


@given(st.integers(2, 9), st.integers(0, 20), st.integers(0, 20), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_joining_undoes_cutting_and_blends_as_its_definition_says(tile, more, others, unit) -> None:
    size = ((tile + more) * unit, (tile + others) * unit)
    tiling = Tiling(size, (tile * unit, tile * unit), unit)
    images = torch.rand(2, 3, *size)
    cut = torch.cat([*tiling.cut(images)])
    assert cut.shape == (2 * tiling.count, 3, tile * unit, tile * unit)
    assert torch.equal(tiling.join(tiling.lay_out(cut)), images)
    assert torch.equal(tiling.pick(tiling.lay_out(cut)), images)
    assert torch.equal(tiling.take_apart(tiling.lay_out(cut)), cut)
    (tops, down), (lefts, right) = (shares(side // unit, tile, unit) for side in size)
    for share in (down, right):
        np.testing.assert_allclose(share.sum(0), 1)
    made = torch.rand(len(cut), 1, tile * unit, tile * unit)
    expected = np.zeros((2, *size))
    for number, one in enumerate(made):
        image, place = number % 2, number // 2
        row, column = divmod(place, len(lefts))
        top, left = tops[row] * unit, lefts[column] * unit
        whole = np.zeros(size)
        whole[top : top + tile * unit, left : left + tile * unit] = one[0]
        expected[image] += whole * np.outer(down[row], right[column])
    np.testing.assert_allclose(tiling.join(tiling.lay_out(made))[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("tile", range(2, 12))
def test_nothing_near_a_border_inside_the_image_is_used(tile) -> None:
    for length in range(tile, 5 * tile):
        tiling = Tiling((length * 16, tile * 16), (tile * 16, tile * 16), 16)
        border = torch.ones(tiling.count, 1, tile * 16, tile * 16)
        kept = max(1, tile // 4) * 4  # pixels: a quarter of what neighbours share
        border[:, :, kept:-kept] = 0
        whole = tiling.join(tiling.lay_out(border))
        assert not whole[:, :, kept:-kept].any()


def test_tiles_grow_in_proportion_to_pixels() -> None:
    for side in range(256, 8192 + 64, 64):
        count = Tiling((side, 4096), (256, 256), 64).count / Tiling((256, 4096), (256, 256), 64).count
        assert (side - 64) / 192 <= count < (side - 64) / 192 + 1  # a tile for each 192 pixels, and what is shared once
        assert Tiling((side, side), (256, 256), 64).count == count**2


def test_crops_are_pieces_of_their_images_up_to_the_borders() -> None:
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(9.0), indexing="ij")
    images = torch.stack([rows, columns]).repeat(400, 1, 1, 1) + 100 * torch.arange(400).view(-1, 1, 1, 1)
    crops = random_crops(images, 8)
    corners = crops[:, :, 0, 0] - 100 * torch.arange(400)[:, None]
    for index, (top, left) in enumerate(corners.long().tolist()):
        assert torch.equal(crops[index], images[index, :, top : top + 8, left : left + 8])
    assert set(corners[:, 0].tolist()) == {0, 1, 2, 3, 4}
    assert set(corners[:, 1].tolist()) == {0, 1}
    assert torch.equal(random_crops(images[..., :8, :8], 8), images[..., :8, :8])


# The network.


def sheets(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Textures that repeat themselves from unit to unit, so that all tiles of an image are alike."""
    patches = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.3
    patches = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)
    smooth = avg_pool2d(pad(patches, (1, 1, 1, 1), "circular"), 3, 1)
    return smooth.repeat(1, 1, size[0] // UNIT, size[1] // UNIT)


@pytest.fixture(scope="module")
def trained() -> DaadRestoration:
    """A model of 224x224 pixels in four tiles of 128, trained for some seconds."""
    torch.manual_seed(0)
    model = make_restoration(image_size=(224, 224), tile_size=128).train()
    parameters = [*model.model.autoencoder.parameters(), *model.model.comparison.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        model.losses(sheets(4, (224, 224), step)).losses[0].backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model.model.score.calibrate(*model.model.scores(sheets(20, (224, 224), 1000)))
    return model


@torch.no_grad()
@pytest.mark.parametrize(("middle", "at_seam"), [(64, 96), (48, SEAM), (64, 128)])
def test_a_defect_across_a_seam_is_the_same_as_in_the_middle_of_a_tile(trained, middle, at_seam) -> None:
    """Tiles are alike and both places lie alike in their unit: what differs is how near a tile's border is.

    That may cost a fifth of what the defect adds to the score of a good image; half a defect would cost half of it.
    """
    images = sheets(6, (224, 224), 2000)
    good, found = trained.model(images), []
    for place in ((middle, middle), (middle, at_seam), (at_seam, middle), (at_seam, at_seam)):
        drawn = images.clone()
        drawn[:, :, place[0] - 4 : place[0] + 4, place[1] - 4 : place[1] + 4] = 0.9
        output = trained.model(drawn)
        strongest = output.anomaly_map.flatten(1)
        where = torch.stack([strongest.argmax(1) // 224 - place[0], strongest.argmax(1) % 224 - place[1]])
        found.append((output.pred_score - good.pred_score, strongest.amax(1) - good.anomaly_map.amax()))
        assert where.abs().max() <= 6  # on the defect, or a pixel of what the networks see beside it
    (score, height), *others = found
    assert (score > 1).all()  # times the range of good images
    for other_score, other_height in others:
        torch.testing.assert_close(other_score, score, rtol=0.2, atol=0)
        torch.testing.assert_close(other_height, height, rtol=0.2, atol=0)


@torch.no_grad()
def test_maps_of_good_images_have_no_jump_at_seams(trained) -> None:
    """Textures repeat themselves, so that neighbours in the middle of tiles differ as those at a seam do."""
    anomaly_map = trained.model(sheets(12, (224, 224), 3000)).anomaly_map[:, 0]
    for maps in (anomaly_map, anomaly_map.mT):
        steps = maps.diff(dim=2).abs().mean(dim=(0, 1))  # (223,)
        seam, inside = steps[SEAM - UNIT : SEAM + UNIT], steps[UNIT : 2 * UNIT]
        assert seam.max() <= 1.2 * inside.max()
        assert seam.mean() <= 1.2 * inside.mean()


@torch.no_grad()
def test_how_many_tiles_go_together_changes_nothing(trained, monkeypatch) -> None:
    images, passed = sheets(3, (224, 224), 4000), []
    hook = trained.model.autoencoder.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    expected, observed = trained.model(images), trained.model.observe(images)
    assert sum(passed) == 2 * 3 * 4
    for most in (1, 5, 7, 1000):
        monkeypatch.setattr(tiles, "AT_ONCE", most)
        passed.clear()
        output = trained.model(images)
        assert sum(passed) == 3 * 4
        assert max(passed) <= max(most, 3)  # one tile of each image at least
        torch.testing.assert_close(output.pred_score, expected.pred_score, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.anomaly_map, expected.anomaly_map, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(trained.model.observe(images), observed, rtol=0, atol=1e-6)
    hook.remove()


@torch.no_grad()
def test_a_tile_that_is_the_image_is_the_image() -> None:
    torch.manual_seed(0)
    whole, tiled = make_restoration(placement_radius=0), make_restoration(tile_size=64)
    whole.model.standardization.train()(torch.randn(30, 5, 32, 32))
    tiled.model.load_state_dict(weights(whole))
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    expected, found = (it.eval().model(images) for it in (whole, tiled))
    torch.testing.assert_close(found.pred_score, expected.pred_score, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.model.observe(images), whole.model.observe(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_statistics_are_those_of_all_tiles_and_ranges_those_of_whole_images(trained) -> None:
    network = make_restoration(image_size=(224, 224), tile_size=128).model.eval()
    network.load_state_dict(weights(trained))
    images = sheets(12, (224, 224), 5000)
    network.relearn(torch.cat([network.observe(part) for part in images.split(5)]))
    alone = RestorationModel((128, 128), 2, 4, placement_radius=0).eval()
    alone.load_state_dict(weights(trained))
    corners = [(top, left) for top in (0, 96) for left in (0, 96)]
    observed = [alone.observe(images[:, :, top : top + 128, left : left + 128]) for top, left in corners]
    statistics = network.standardization
    assert statistics.count == 48
    torch.testing.assert_close(statistics.running_mean[0], torch.cat(observed).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics.running_var[0], torch.cat(observed).var(0), rtol=1e-3, atol=1e-6)
    first, second, fold = [], [], torch.arange(12) % 10
    for number in range(10):  # each image by the statistics of the others
        alone.standardization.learn_anew(torch.cat([it[fold != number] for it in observed]))
        maps = torch.cat([alone.standardization(it[fold == number]) for it in observed])
        strongest = network.tiling.join(network.tiling.lay_out(maps)).amax(dim=(2, 3))
        first.append(strongest[:, [0, 1, 3, 4]].mean(dim=1))
        second.append(strongest[:, 2])
    for found, values in ((network.score.reconstruction_range, first), (network.score.alignment_range, second)):
        expected = torch.stack(torch.cat(values).aminmax())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_new_images_that_are_as_the_old_ones_look_as_they_are(trained) -> None:
    network = copy.deepcopy(trained.model)
    observed = network.observe(sheets(3, (224, 224), 5))
    network.learn_usual(observed)
    torch.testing.assert_close(as_if_old(network, observed, network.standardization.statistics), observed)
    standardize_by_both(network, observed, network.standardization.statistics)
    before = network.score_observed(observed)
    network.learn_usual(observed)
    torch.testing.assert_close(network.score_observed(observed), before)


def test_explanations_are_of_the_whole_image(trained) -> None:
    images = sheets(2, (224, 224), 6000)
    explanation = trained.model.explain(images)
    assert explanation.seen.shape == explanation.expected.shape == (2, 3, 112, 112)
    small = interpolate(images, (112, 112), mode="bilinear", antialias=True)  # a tile's border would differ
    torch.testing.assert_close(explanation.seen, small, rtol=0, atol=1e-5)
    for scale, read in enumerate(explanation.reads, start=1):
        assert read.grid == (7, 7, 1)
        assert read.weights.shape == (2, 49, 500)
        assert read.queries.shape[1] == 49
        assert scale_of(read, explanation) == scale
        torch.testing.assert_close(read.features.amax(), (read.weights @ read.items).amax())
    # Of the last block and of one in the middle: what the tile that it is in the middle of reads.
    alone = trained.model.autoencoder
    for block, tile, inside in ((48, (96, 96), 15), (2 * 7 + 4, (0, 96), 2 * 4 + 1)):
        seen = trained.model.detail(images[:, :, tile[0] : tile[0] + 128, tile[1] : tile[1] + 128])
        light = tiles_light(seen)
        for read, expected in zip(explanation.reads, alone.reconstruct(light).reads, strict=True):
            torch.testing.assert_close(read.weights[:, block], expected.weights[:, inside], rtol=1e-4, atol=1e-5)


def tiles_light(seen: torch.Tensor) -> torch.Tensor:
    """Images of equal light, by definition."""
    parts = []
    for channels, least in ((seen[:, :3], 0.02), (seen[:, 3:], 0.01)):
        mean = channels.mean(dim=(1, 2, 3), keepdim=True)
        parts.append((channels - mean) / channels.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp_min(least) * 0.4)
    return torch.cat(parts, dim=1)


# Training and files.


def test_a_step_sees_one_tile_of_each_image() -> None:
    model, seen = make_restoration(image_size=(160, 96), tile_size=64), []
    model.model.autoencoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    model.losses(torch.rand(3, 3, 160, 96) * 2 - 1)
    assert seen == [(3, 4, 32, 32)]
    assert model.hparams["tile_size"] == 64


def test_every_export_and_file_of_a_tiled_model_agrees(tmp_path, monkeypatch) -> None:
    model = as_if_trained(make_restoration(image_size=(96, 64), tile_size=64)).eval()
    torch.manual_seed(0)
    images = torch.rand(5, 3, 96, 64)
    expected, engine = model(images), Engine(accelerator="cpu")
    other = load_safetensors(save_safetensors(model, tmp_path / "model.safetensors")).eval()
    assert other.model.tiling.count == 2
    assert torch.equal(other(images).pred_score, expected.pred_score)
    onnx = engine.export(model, ExportType.ONNX, export_root=tmp_path)
    session = onnxruntime.InferenceSession(str(onnx))
    names = [output.name for output in session.get_outputs()]
    inferencer = OpenVINOInferencer(onnx, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    pickled = TorchInferencer(engine.export(model, ExportType.TORCH, export_root=tmp_path), device="cpu").model
    for part in (slice(0, 1), slice(0, 5)):
        found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images[part].numpy()}), strict=True))
        by_openvino = inferencer.predict(images[part])
        by_torch = pickled(images[part])
        for scores, maps in (
            (found["pred_score"], found["anomaly_map"]),
            (by_openvino.pred_score, by_openvino.anomaly_map),
            (by_torch.pred_score, by_torch.anomaly_map),
        ):
            np.testing.assert_allclose(np.asarray(scores).reshape(-1), expected.pred_score[part], atol=1e-4)
            shape = expected.anomaly_map[part].shape
            np.testing.assert_allclose(np.asarray(maps).reshape(shape), expected.anomaly_map[part], atol=1e-4)


# Bad arguments.


@pytest.mark.parametrize("tile_size", [0, -64, 32, 96 + 16, 100, 128 + 64, 64.0, True, "64", (64, 64)])
def test_a_tile_that_does_not_fit_is_refused(tile_size) -> None:
    words = (
        "tile_size must be a multiple of 32, which is 16 times downscale 2, from 64 to the shorter side of image_size"
    )
    with pytest.raises(ValueError, match=rf"{words} 256x128, or None for the whole image; got"):
        make_restoration(image_size=(256, 128), tile_size=tile_size)


def test_a_tile_has_no_place() -> None:
    with pytest.raises(ValueError, match="placement_radius 3 moves a part to its place, which a tile does not have"):
        make_restoration(image_size=(128, 128), tile_size=64, placement_radius=3)
    for radius in (None, 0):
        network = make_restoration(image_size=(128, 128), tile_size=64, placement_radius=radius).model
        assert network.registration is network.placement is None

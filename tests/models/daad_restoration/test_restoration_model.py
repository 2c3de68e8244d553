# SPDX-License-Identifier: Apache-2.0

"""The restoration network: how an image walks through it, and which sizes it takes."""

import re

import numpy as np
import pytest
import torch
from conftest import make_restoration
from references import draw_rough, judged_by_definition, placed_height, resize

from anomalib_daad import DaadRestoration
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.daad_restoration import RestorationModel, lightning_model
from anomalib_daad.models.daad_restoration.map_standardization import MapStandardization
from anomalib_daad.safetensors_file import load_safetensors, save_safetensors


def network_that_has_seen_good_images(**arguments) -> RestorationModel:
    torch.manual_seed(0)
    network = make_restoration(**arguments).model.eval()
    size = network.standardization.running_mean.shape[2:]
    good = torch.randn(30, 5, *size) * torch.rand(5, *size) + torch.randn(5, *size)
    network.standardization.train()(good)
    network.standardization.eval()
    network.score.calibrate(torch.tensor([0.1, 0.3]), torch.tensor([-2.0, 3.0]))
    return network


@pytest.mark.parametrize(
    "arguments",
    [{}, {"downscale": 4}, {"downscale": 4, "image_size": (64, 128)}, {"image_size": (96, 64), "placement_radius": 0}],
    ids=str,
)
def test_an_image_walks_as_its_definition_says(arguments) -> None:
    network = network_that_has_seen_good_images(**arguments)
    height, width = network.image_size
    images = draw_rough(3, height, width)
    scores, output = network.scores(images), network(images)
    assert output.anomaly_map.shape == (3, 1, height, width)
    for index, image in enumerate(images):
        (structure, detail, comparison, error, colour), first, second = judged_by_definition(network, image)
        assert scores.reconstruction[index].item() == pytest.approx(first, rel=1e-3, abs=1e-3)
        assert scores.alignment[index].item() == pytest.approx(second, rel=1e-3, abs=1e-3)
        expected = 0.5 * (first - 0.1) / 0.2 + 0.5 * (second + 2) / 5
        assert output.pred_score[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-2)
        fused = 0.5 * ((structure + detail) / 2 + 2 * error + colour / 4 - 0.1) / 0.2 + 0.5 * (comparison + 2) / 5
        enlarged = resize(fused, width, height)
        np.testing.assert_allclose(output.anomaly_map[index, 0], enlarged, rtol=1e-3, atol=1e-2)


def test_an_export_walks_alike_with_what_it_has_learnt_settled() -> None:
    network = network_that_has_seen_good_images()
    images = draw_rough(3, 64, 64)
    expected, rewritten = network(images), for_inference(network)
    exported = torch.export.export(rewritten, (images,)).module()
    for other in (rewritten, exported):
        torch.testing.assert_close(other(images).pred_score, expected.pred_score, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other(images).anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-3)
    assert not any(isinstance(module, MapStandardization) for module in rewritten.modules())


def test_what_was_trained_without_colour_judges_as_it_did() -> None:
    module, earlier = make_restoration(), make_restoration()
    module.model = network_that_has_seen_good_images()
    state = module.state_dict()
    for name in ("running_mean", "running_var"):
        state[f"model.standardization.{name}"] = state[f"model.standardization.{name}"][:, :4]
    earlier.eval().make_room(state)
    earlier.load_state_dict(earlier.complete(state))
    network, images = earlier.model, draw_rough(2, 64, 64)
    scores, output = network.scores(images), network(images)
    exported = for_inference(network)(images)
    for index, image in enumerate(images):
        (structure, detail, comparison, error, _), _, second = judged_by_definition(module.model, image)
        first = (structure.max() + detail.max() + error.max()) / 3
        assert scores.reconstruction[index].item() == pytest.approx(first, rel=1e-3, abs=1e-3)
        fused = 0.5 * ((structure + detail) / 2 + 2 * error - 0.1) / 0.2 + 0.5 * (comparison + 2) / 5
        np.testing.assert_allclose(output.anomaly_map[index, 0], resize(fused, 64, 64), rtol=1e-3, atol=1e-2)
        expected = 0.5 * (first - 0.1) / 0.2 + 0.5 * (second + 2) / 5
        assert exported.pred_score[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-2)
    observed = network.observe(draw_rough(12, 64, 64))
    assert observed.shape[1] == 4
    network.relearn(observed)  # as a calibration does
    assert network(images).pred_score.isfinite().all()


def test_files_of_models_without_colour_are_read_and_the_reverse(make_datamodule, make_engine, tmp_path) -> None:
    images = draw_rough(2, 64, 64)
    paths, expected, take_maps = {}, {}, RestorationModel.take_maps
    for count in (4, 5):
        model, engine = make_restoration(), make_engine(max_steps=2)
        with pytest.MonkeyPatch.context() as patch:  # four, as the version before
            patch.setattr(RestorationModel, "take_maps", lambda self, _, count=count: take_maps(self, count))
            engine.fit(model, datamodule=make_datamodule())
        assert model.model.standardization.num_maps == count
        paths[count] = tmp_path / f"{count}.ckpt"
        engine.trainer.save_checkpoint(paths[count])
        save_safetensors(model, paths[count].with_suffix(".safetensors"))
        expected[count] = model.model.eval()(images).pred_score
    for count, path in paths.items():
        opened = [DaadRestoration.load_from_checkpoint(path), load_safetensors(path.with_suffix(".safetensors"))]
        for other in paths.values():  # one object takes both, one after the other
            model = DaadRestoration.load_from_checkpoint(other)
            content = torch.load(path, weights_only=False)
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
            opened.append(model)
        for model in opened:
            assert model.model.standardization.num_maps == count
            assert not any(module.training for module in model.model.modules())
            torch.testing.assert_close(model.model(images).pred_score, expected[count], rtol=1e-5, atol=1e-5)
    old = DaadRestoration.load_from_checkpoint(paths[4])
    make_engine(max_steps=4).fit(old, datamodule=make_datamodule(), ckpt_path=paths[4])
    assert old.model.standardization.num_maps == 4  # a training that goes on
    make_engine(max_steps=2).fit(old, datamodule=make_datamodule())
    assert old.model.standardization.num_maps == 5


def test_explanations_lie_where_the_image_lies() -> None:
    network = network_that_has_seen_good_images()
    images = draw_rough(2, 64, 64)
    seen, expected, reads = network.explain(images)
    small = network.detail(images)
    torch.testing.assert_close(seen, small[:, :3])
    torch.testing.assert_close(expected, network.restore(small)[:, :3])
    assert [tuple(read.queries.shape[:2]) for read in reads] == [(2, 16)] * 3


# Sizes.


@pytest.mark.parametrize(
    ("size", "downscale"), [((32, 32), 2), ((64, 192), 4), ((128, 64), 2), ((256, 256), 4), ((128, 384), 8)]
)
def test_any_multiple_of_16_times_downscale_is_taken(size, downscale) -> None:
    network = RestorationModel(size, downscale, base_channels=4, placement_radius=2).eval()
    height, width = size[0] // downscale, size[1] // downscale
    seen = network.detail(torch.rand(1, 3, *size))
    assert seen.shape == (1, 4, height, width)
    coarsest = network.autoencoder.encoder(seen)[-1]
    assert min(coarsest.shape[2:]) >= 4 or height < 32
    for memory in network.autoencoder.memories:
        assert memory.division_rates == (*coarsest.shape[2:], 1)  # a block for each pixel of the bottleneck
        assert len(memory.items) == 500
    assert placed_height(network) == height
    batch = network(torch.rand(2, 3, *size) * 2 - 1)
    assert batch.pred_score.shape == (2,)
    assert batch.anomaly_map.shape == (2, 1, *size)


@pytest.mark.parametrize(
    ("size", "downscale"), [((100, 256), 4), ((96, 96), 4), ((64, 64), 8), ((16, 64), 2), ((0, 64), 2)]
)
def test_another_size_is_refused_and_two_that_fit_are_named(size, downscale) -> None:
    unit = 16 * downscale
    words = (
        f"image_size {size[0]}x{size[1]} must be divisible by {unit}x{unit}, which is 16 times downscale {downscale};"
    )
    with pytest.raises(ValueError, match=words) as error:
        RestorationModel(size, downscale, base_channels=4, placement_radius=2)
    fitting = re.findall(r"(\d+)x(\d+)", str(error.value).partition("; take ")[2])
    assert len(set(fitting)) == 2
    for height, width in fitting:
        RestorationModel((int(height), int(width)), downscale, base_channels=4, placement_radius=2)


@pytest.mark.parametrize("downscale", [0, -2, 1, 3, 5, 16])
def test_another_downscale_is_refused(downscale) -> None:
    with pytest.raises(ValueError, match=rf"downscale must be one of \(2, 4, 8\), got {downscale}"):
        make_restoration(image_size=(256, 256), downscale=downscale)


@pytest.mark.parametrize(("size", "downscale"), [((256, 256), 4), ((256, 128), 2), ((64, 192), 4), ((1024, 512), 8)])
def test_the_blur_is_a_share_of_the_shorter_side_of_what_networks_see(size, downscale) -> None:
    network = RestorationModel(size, downscale, base_channels=4, placement_radius=2)
    sigma = 0.0117 * min(size) / downscale
    kernel = network.blur.kernel.flatten().double()
    places = torch.arange(len(kernel)) - len(kernel) // 2
    expected = torch.exp(-places.double().square() / (2 * sigma**2))
    torch.testing.assert_close(kernel, expected / expected.sum(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("downscale", [2, 4, 8])
def test_the_random_shift_is_half_of_downscale(downscale, monkeypatch) -> None:
    model, most = make_restoration(image_size=(128, 128), downscale=downscale), []
    monkeypatch.setattr(lightning_model, "random_shifts", lambda images, shift: most.append(shift) or images)
    model.losses(torch.rand(2, 3, 128, 128) * 2 - 1)
    assert most == [downscale // 2]

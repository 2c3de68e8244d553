# SPDX-License-Identifier: Apache-2.0

"""Small images with their detail, and what the networks, the corruptions and the maps make of it."""

import numpy as np
import pytest
import torch
from conftest import RESTORATION, make_model, standardize_by_loop
from PIL import Image
from torch.nn.functional import interpolate

from anomalib_daad.components.error_map import relative_error
from anomalib_daad.models.daad_restoration.comparison import Comparison
from anomalib_daad.models.daad_restoration.corruption import corrupt, relight
from anomalib_daad.models.daad_restoration.detail import Downscale
from anomalib_daad.models.daad_restoration.difference_maps import DETAIL_CONTRAST, StructureMap
from anomalib_daad.models.daad_restoration.light import MIN_CONTRAST, MIN_DETAIL_CONTRAST, light


def resize(channel: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear and, where it gets smaller, antialiased, by Pillow."""
    return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def draw_images(count: int = 3, height: int = 48, width: int = 80) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rough = interpolate(torch.randn(count, 3, 6, 10, generator=generator), (height, width), mode="bicubic")
    return (0.4 * rough + 0.2 * torch.randn(count, 3, height, width, generator=generator)).clamp(-1, 1)


def with_detail(count: int = 4, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 4, size, size, generator=generator) * torch.tensor([2.0, 2.0, 2.0, 0.3])[:, None, None]
    return images - torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_small_images_and_detail_are_what_pillow_says(factor) -> None:
    images = draw_images()
    small = Downscale((48, 80), factor)(images)
    for image, result in zip(images.numpy(), small.numpy(), strict=True):
        lost = 0.0
        for channel, its_result in zip(image, result, strict=False):
            reduced = resize(channel, 80 // factor, 48 // factor)
            np.testing.assert_allclose(its_result, reduced, atol=1e-5)
            lost = lost + (channel - resize(reduced, 80, 48)) ** 2 / 3
        np.testing.assert_allclose(result[3], np.sqrt(resize(lost, 80 // factor, 48 // factor)), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_small_images() -> None:
    images = draw_images(8, 256, 256)
    downscale = Downscale((256, 256), 4)
    with torch.autocast("cuda", torch.bfloat16):
        small = downscale(images.cuda())
    torch.testing.assert_close(small.cpu(), downscale(images), rtol=0, atol=1e-3)  # TensorFloat-32 may be allowed


def test_a_scratch_a_pixel_wide_is_detail_at_its_place() -> None:
    images = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64).clone()  # a slope has no detail
    plain = Downscale((64, 64), 4)(images)[0, 3]
    assert plain[:, 1:-1].max() < 0.002
    images[..., 31] = 1.0
    detail = Downscale((64, 64), 4)(images)[0, 3]
    assert (detail[:, 7:9] > 0.2).all()
    assert (detail[:, 2:5] < 0.02).all()


def test_detail_grows_with_contrast() -> None:
    images = draw_images()
    downscale = Downscale((48, 80), 4)
    torch.testing.assert_close(downscale(0.3 * images - 0.1)[:, 3], 0.3 * downscale(images)[:, 3])


@pytest.mark.parametrize("factor", [0, -2, 3, 5])
def test_a_factor_that_does_not_divide_is_refused(factor) -> None:
    with pytest.raises(ValueError, match=rf"divisor of image_size 64x64, got {factor}"):
        make_model(**RESTORATION, image_size=(64, 64), downscale=factor)


def test_the_discriminator_takes_no_detail() -> None:
    with pytest.raises(ValueError, match="adversarial=False"):
        make_model(adversarial=True, image_size=(64, 64), downscale=2)


def test_light_of_colours_and_of_detail() -> None:
    images = with_detail()
    images[1, 3] = 0.1
    images[2] *= 1e-4
    mean, contrast = light(images)
    for image, its_mean, its_contrast in zip(images.numpy(), mean.numpy(), contrast.numpy(), strict=True):
        colours, detail = image[:3], image[3]
        expected = [(colours.mean(), max(colours.std(), MIN_CONTRAST))] * 3
        expected.append((detail.mean(), max(detail.std(), MIN_DETAIL_CONTRAST)))
        np.testing.assert_allclose(np.stack([its_mean, its_contrast], axis=1)[..., 0, 0], expected, atol=1e-5)


def test_corruptions_fill_detail_where_they_fill_colours() -> None:
    torch.manual_seed(0)
    for _ in range(5):
        images = with_detail(8)
        corrupted = corrupt(images, share=1.0).images
        changed = (corrupted - images).abs() > 1e-4
        filled = changed[:, :3].any(dim=1)
        assert (changed[:, 3] & ~filled).sum() <= 0.01 * filled.sum()
        assert changed[:, 3].sum() > 0.9 * filled.sum()


@pytest.mark.parametrize("contrast", [1.0, 0.02])
def test_corruptions_of_colours_and_what_counts_as_one_do_not_depend_on_detail(contrast) -> None:
    images = with_detail()
    images[:, :3] *= contrast  # in flat colours nothing but detail changes visibly
    runs = []
    for given in (images, images[:, :3]):
        torch.manual_seed(0)
        runs.append(corrupt(given))
    assert torch.equal(runs[0].images[:, :3], runs[1].images)
    assert torch.equal(runs[0].masks, runs[1].masks)


def test_light_changes_detail_as_it_changes_contrast() -> None:
    torch.manual_seed(0)
    images = with_detail()
    images[:, :3] *= 0.2  # none of them is clamped
    lit = relight(images, 0.5, 0.2)
    gains = [x[:, :3].mean(dim=1).std(dim=(1, 2)) for x in (lit, images)]
    factor = (gains[0] / gains[1]).view(-1, 1, 1)
    assert (factor - 1).abs().min() > 0.01
    torch.testing.assert_close(lit[:, 3], images[:, 3] * factor)


def test_structure_is_that_of_grey_values_and_of_detail() -> None:
    images, reconstructions = with_detail(), with_detail().roll(1, 0)
    structure = StructureMap()
    mean, deviation = images[:, 3:].mean(dim=(2, 3), keepdim=True), images[:, 3:].std(dim=(2, 3), correction=0)
    as_colours = [
        ((x[:, 3:] - mean) * DETAIL_CONTRAST / deviation[..., None, None]).expand(-1, 3, -1, -1)
        for x in (images, reconstructions)
    ]
    expected = (structure(images[:, :3], reconstructions[:, :3]) + structure(*as_colours)) / 2
    torch.testing.assert_close(structure(images, reconstructions), expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_relative_error_is_that_of_a_loop(channels) -> None:
    images, reconstructions = (x[:, :channels] for x in (with_detail(), with_detail().roll(1, 0)))
    errors = relative_error(images, reconstructions)
    for image, reconstruction, error in zip(images.numpy(), reconstructions.numpy(), errors.numpy(), strict=True):
        expected = np.abs(image - reconstruction)[:3].mean(axis=0) / image[:3].std()
        if channels == 4:
            expected = expected + np.abs(image - reconstruction)[3] / image[3].std()
        np.testing.assert_allclose(error[0], expected, rtol=1e-4, atol=1e-6)


def test_the_comparison_does_not_look_at_detail() -> None:
    comparison = Comparison(4).eval()
    images, reconstructions = with_detail(), with_detail().roll(1, 0)
    seen = comparison(images[:, :3], reconstructions[:, :3])
    assert torch.equal(comparison(images, reconstructions), seen)


# In the model.


def test_a_size_that_scales_do_not_divide_is_refused_as_that_of_the_images() -> None:
    words = r"image_size 96x96 must be divisible by 64x64, .*downscale \* 2\*\*num_scales = 32"
    with pytest.raises(ValueError, match=words):
        make_model(**RESTORATION, image_size=(96, 96), downscale=2, division_rates=(2, 2, 1))


DOWNSCALED = {**RESTORATION, "image_size": (64, 64), "downscale": 2, "standardize_maps": True}


@pytest.mark.parametrize("options", [{}, {"score": "maximum_error"}, {"standardize": False}], ids=str)
def test_a_downscaled_model_is_one_of_small_images(options) -> None:
    model = make_model(**{**DOWNSCALED, **options}, placement_radius=1).model.eval()
    model.placement.growth.fill_(10.0)
    images = draw_images(3, 64, 64)
    placed = model.in_place(images)
    assert placed.images.shape == (3, 4, 32, 32)
    with torch.no_grad():
        restored = model.autoencoder(placed.images)
        defects = model.anomaly_map.blur(model.comparison(placed.images[:, :3], restored[:, :3]))
        maps = model.standardization(torch.cat([model.anomaly_map(placed.images, restored), defects], dim=1))
    maps = placed.back(maps).split(1, dim=1)
    batch = model(images)
    expected = model.score(*(one.amax(dim=(1, 2, 3)) for one in maps))
    torch.testing.assert_close(batch.pred_score, expected)
    assert batch.anomaly_map.shape == (3, 1, 64, 64)
    enlarged = [resize(one[0].numpy(), 64, 64) for one in model.score(*maps)]
    np.testing.assert_allclose(batch.anomaly_map[:, 0], enlarged, rtol=1e-4, atol=1e-4)


def test_grey_values_detail_and_error_each_have_a_strongest_point() -> None:
    model = make_model(**{**DOWNSCALED, "score": "maxima", "error_map": True}).model.eval()
    images = draw_images(3, 64, 64)
    small = model.downscale(images)
    grey, all_of_detail = StructureMap(), StructureMap(apart=True)
    good = torch.randn(30, 4, 32, 32) * torch.rand(4, 32, 32) + torch.randn(4, 32, 32)
    model.standardization.train()(good)
    model.standardization.eval()
    with torch.no_grad():
        restored = model.autoencoder(small)
        kinds = [
            grey(small[:, :3], restored[:, :3]),
            2 * grey(small, restored) - grey(small[:, :3], restored[:, :3]),  # their mean is what it gives
            model.comparison(small[:, :3], restored[:, :3]),
            relative_error(small, restored),
        ]
        torch.testing.assert_close(all_of_detail(small, restored), torch.cat(kinds[:2], dim=1))
        first, second, defects, error = (
            torch.from_numpy(standardize_by_loop(model.anomaly_map.blur(one)[:, 0].numpy(), good[:, i].numpy()))[
                :, None
            ]
            for i, one in enumerate(kinds)
        )
    expected = sum(one.amax(dim=(1, 2, 3)) for one in (first, second, error)) / 3
    scores = model.scores(images)
    torch.testing.assert_close(scores.reconstruction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.alignment, defects.amax(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    anomaly_map = model.score((first + second) / 2 + 2 * error, defects)
    enlarged = [resize(one[0].numpy(), 64, 64) for one in anomaly_map]
    np.testing.assert_allclose(model(images).anomaly_map[:, 0], enlarged, rtol=1e-3, atol=1e-3)


def test_colours_and_detail_are_both_restored(make_datamodule, make_engine) -> None:
    model = make_model(**DOWNSCALED, placement_radius=1, optimizer="muon", learning_rate=2e-3)
    images = torch.stack([item.image for item in make_datamodule_images(make_datamodule)])
    before = errors_of(model, images)
    make_engine(max_epochs=16).fit(model, datamodule=make_datamodule())
    after = errors_of(model, images)
    assert (after < 0.8 * before).all()
    assert model.model.placement.growth.isfinite()  # measured on small images


def make_datamodule_images(make_datamodule) -> list:
    datamodule = make_datamodule()
    datamodule.setup()
    return list(datamodule.train_data)


@torch.no_grad()
def errors_of(model, images: torch.Tensor) -> torch.Tensor:
    """Squared error of the colours and of the detail."""
    network = model.model.eval()
    small = network.downscale(model.pre_processor(images))
    error = (small - network.autoencoder(small)).square().mean(dim=(0, 2, 3))
    model.train()
    return torch.stack([error[:3].mean(), error[3]])

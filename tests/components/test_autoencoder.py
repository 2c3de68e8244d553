# SPDX-License-Identifier: Apache-2.0

"""Autoencoder, discriminator and the model that joins them."""

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_daad.components.autoencoder import MemoryAutoencoder, UpConvolution
from anomalib_daad.models.daad.discriminator import Discriminator
from anomalib_daad.models.daad.torch_model import DaadModel, TrainingOutput
from anomalib_daad.models.daad_restoration.comparison import Comparison


def small_model(**arguments) -> DaadModel:
    defaults = {"image_size": (32, 32), "division_rates": (2, 2, 1), "num_items": 10, "base_channels": 4}
    return DaadModel(**{**defaults, **arguments})


@pytest.mark.parametrize(
    ("image_size", "rates", "num_scales"),
    [((256, 256), (8, 8, 1), 4), ((32, 32), (4, 4, 1), 3), ((64, 128), (2, 4, 2), 4), ((96, 96), (1, 1, 1), 5)],
)
def test_autoencoder_has_a_bank_on_every_connection(image_size, rates, num_scales) -> None:
    autoencoder = MemoryAutoencoder(image_size, rates, num_items=3, num_scales=num_scales, base_channels=4)
    features = autoencoder.encoder(torch.randn(2, 3, *image_size))
    assert [tuple(f.shape[1:]) for f in features] == [memory.feature_shape for memory in autoencoder.memories]
    assert features[-1].shape[2:] == (image_size[0] // 2**num_scales, image_size[1] // 2**num_scales)
    assert all(memory.division_rates == rates for memory in autoencoder.memories)
    reconstruction = autoencoder(torch.randn(2, 3, *image_size))
    assert reconstruction.shape == (2, 3, *image_size)
    assert reconstruction.abs().max() <= 1


def test_paper_size_has_the_paper_shapes() -> None:
    autoencoder = MemoryAutoencoder((256, 256), (8, 8, 1), num_items=500)
    assert [memory.items.shape for memory in autoencoder.memories] == [
        (500, 16384),
        (500, 8192),
        (500, 4096),
        (500, 2048),
    ]
    output = Discriminator((256, 256))(torch.randn(2, 3, 256, 256))
    assert output.logits.shape == (2,)
    assert output.features.shape == (2, 512, 4, 4)


def test_nothing_passes_by_the_memory() -> None:
    autoencoder = MemoryAutoencoder((32, 32), (2, 2, 1), num_items=10, base_channels=4).eval()
    first, second = autoencoder(torch.randn(1, 3, 32, 32)), autoencoder(torch.randn(1, 3, 32, 32))
    assert not torch.allclose(first, second)
    with torch.no_grad():
        for memory in autoencoder.memories:
            memory.items.zero_()
    first, second = autoencoder(torch.randn(1, 3, 32, 32)), autoencoder(torch.randn(1, 3, 32, 32))
    assert torch.equal(first, second)


@pytest.mark.parametrize("scale", range(4))
def test_every_memory_reaches_the_reconstruction(scale) -> None:
    autoencoder = MemoryAutoencoder((32, 32), (2, 2, 1), num_items=10, base_channels=4)
    autoencoder(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert autoencoder.memories[scale].items.grad.abs().sum() > 0


@pytest.mark.parametrize("image_size", [(32, 32), (64, 32), (96, 96), (128, 128)])
def test_discriminator_reads_any_size(image_size) -> None:
    discriminator = Discriminator(image_size, base_channels=4).eval()
    images = torch.randn(3, 3, *image_size)
    output = discriminator(images)
    assert output.logits.shape == (3,)
    assert all(size >= 4 for size in output.features.shape[2:])
    assert min(output.features.shape[2:]) < 8
    assert torch.equal(discriminator.features(images), output.features)
    last_convolution = [module for module in discriminator.layers.modules() if isinstance(module, nn.Conv2d)][-1]
    assert output.features.shape[1] == last_convolution.out_channels


def test_weights_start_as_in_dcgan() -> None:
    torch.manual_seed(0)
    model = DaadModel((64, 64), (2, 2, 1), 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.01)
            assert module.bias.abs().max() == 0


def test_model_outputs_in_training_and_evaluation() -> None:
    model = small_model()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert isinstance(model(images), TrainingOutput)
    batch = model.eval()(images)
    assert isinstance(batch, InferenceBatch)
    assert batch.pred_score.shape == (3,)
    assert batch.anomaly_map.shape == (3, 1, 32, 32)
    assert not batch.pred_score.requires_grad
    assert not batch.anomaly_map.requires_grad


def test_scores_follow_their_definitions() -> None:
    torch.manual_seed(0)
    model = small_model(map_sigma=0.0, distance="mse").eval()
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter *= 10  # untrained features are so small that any comparison of them would pass
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    scores = model.scores(images)
    for index, image in enumerate(images[:, None]):
        reconstruction = model.autoencoder(image)
        error = ((image - reconstruction) ** 2).sum() / image.numel()
        torch.testing.assert_close(scores.reconstruction[index], error)
        difference = model.discriminator(image).features - model.discriminator(reconstruction).features
        expected = (difference**2).sum() / difference.numel()
        torch.testing.assert_close(scores.alignment[index], expected, rtol=1e-4, atol=0)
        pixel_error = ((image - reconstruction) ** 2).sum(1) / 3
        torch.testing.assert_close(model(images).anomaly_map[index], pixel_error)


def test_l2_is_the_euclidean_norm() -> None:
    torch.manual_seed(0)
    model = small_model(distance="l2").eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    difference = (images - model.autoencoder(images)).flatten(1)
    torch.testing.assert_close(model.scores(images).reconstruction, (difference * difference).sum(1).sqrt())


def test_daad_has_no_discriminator() -> None:
    model = small_model(adversarial=False).eval()
    assert model.discriminator is None
    assert model.scores(torch.rand(2, 3, 32, 32)).alignment is None
    assert model(torch.rand(2, 3, 32, 32)).pred_score.shape == (2,)


@pytest.mark.parametrize("adversarial", [True, False])
def test_scores_do_not_depend_on_batch_size_or_order(adversarial) -> None:
    torch.manual_seed(0)
    model = small_model(adversarial=adversarial).eval()
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    model.score.calibrate(*model.scores(images[:4]))
    expected = model(images)
    order = torch.randperm(8)
    for size in (1, 3, 8):
        batches = [model(batch) for batch in images[order].split(size)]
        scores = torch.cat([batch.pred_score for batch in batches])
        maps = torch.cat([batch.anomaly_map for batch in batches])
        torch.testing.assert_close(scores, expected.pred_score[order], rtol=0, atol=1e-5)
        torch.testing.assert_close(maps, expected.anomaly_map[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (100, 128)}, ["100x128", "32x32"]),
        ({"image_size": (32, 32), "division_rates": (4, 2, 1)}, ["32x32", "64x32", "(4, 2)"]),
        ({"division_rates": (2, 2, 3)}, ["(2, 2, 3)", "channels 4"]),
        ({"num_items": 0}, ["num_items", "got 0"]),
        ({"num_scales": 0}, ["num_scales", "at least 1"]),
        ({"gamma": 1.5}, ["gamma", "[0, 1]", "1.5"]),
        ({"gamma": -0.1}, ["gamma", "[0, 1]", "-0.1"]),
        ({"map_sigma": -1.0}, ["map_sigma", "-1"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        small_model(**arguments)
    assert all(word in str(error.value) for word in words)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3, 32, 32.*3, 64, 64.*image_size"):
        small_model().eval()(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("border", ["zeros", "replicate"])
@pytest.mark.parametrize(("channels", "bias"), [((6, 4), True), ((5, 3), False), ((1, 1), True)])
def test_exported_up_convolution_is_the_transposed_convolution(channels, bias, border) -> None:
    layer = UpConvolution(*channels, bias, border).double().eval()
    features = torch.randn(2, channels[0], 5, 7, dtype=torch.float64)
    exported = torch.export.export(layer, (features,))
    assert "conv_transpose" not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(features), layer(features), rtol=0, atol=1e-12)


def test_a_replicated_border_is_that_of_a_larger_image() -> None:
    """Each scale sees the features as if its outermost rows and columns went on for ever."""
    layer = UpConvolution(3, 2, border="replicate").double()
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    larger = torch.from_numpy(np.pad(features.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), "edge"))
    expected = torch.nn.functional.conv_transpose2d(larger, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(features), expected[..., 6:-6, 6:-6], rtol=0, atol=1e-12)


def test_the_comparison_is_as_sure_in_a_corner_as_inside() -> None:
    """All weights agree, so that every term that is missing at a border is missed."""
    torch.manual_seed(0)
    comparison = Comparison(4).eval()
    image = torch.tensor([0.3, -0.2, 0.5])[None, :, None, None].expand(1, 3, 64, 64)
    with torch.no_grad():
        for weight in comparison.parameters():
            weight.abs_()
        cells = comparison(image, 0.5 * image)[0, 0].unflatten(0, (4, 16)).unflatten(2, (4, 16)).mean(dim=(1, 3))
    torch.testing.assert_close(cells, cells[1, 1].expand_as(cells), rtol=0.02, atol=0)

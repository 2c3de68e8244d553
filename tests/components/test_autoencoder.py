# SPDX-License-Identifier: Apache-2.0

"""Autoencoder: memories on its connections, and nothing beside them."""

import pytest
import torch

from anomalib_daad.components.autoencoder import DROP_WIDTH, MemoryAutoencoder, memory_of
from anomalib_daad.components.block_memory import BlockMemory


@pytest.mark.parametrize(
    ("image_size", "rates", "num_scales"),
    [((256, 256), (8, 8, 1), 4), ((32, 32), (4, 4, 1), 3), ((64, 128), (2, 4, 2), 4), ((96, 96), (1, 1, 1), 4)],
)
def test_autoencoder_has_a_bank_on_every_connection(image_size, rates, num_scales) -> None:
    autoencoder = MemoryAutoencoder(image_size, rates, memory_of(3), base_channels=4)
    features = autoencoder.encoder(torch.randn(2, 3, *image_size))
    assert [tuple(f.shape[1:]) for f in features] == [memory.feature_shape for memory in autoencoder.memories]
    assert features[-1].shape[2:] == (image_size[0] // 2**num_scales, image_size[1] // 2**num_scales)
    assert all(memory.division_rates == rates for memory in autoencoder.memories)
    reconstruction = autoencoder(torch.randn(2, 3, *image_size))
    assert reconstruction.shape == (2, 3, *image_size)
    assert reconstruction.abs().max() <= 1


def test_paper_size_has_the_paper_shapes() -> None:
    autoencoder = MemoryAutoencoder((256, 256), (8, 8, 1), memory_of(500))
    assert [memory.items.shape for memory in autoencoder.memories] == [
        (500, 16384),
        (500, 8192),
        (500, 4096),
        (500, 2048),
    ]


def test_nothing_passes_by_the_memory() -> None:
    autoencoder = MemoryAutoencoder((32, 32), (2, 2, 1), memory_of(10), base_channels=4).eval()
    first, second = autoencoder(torch.randn(1, 3, 32, 32)), autoencoder(torch.randn(1, 3, 32, 32))
    assert not torch.allclose(first, second)
    with torch.no_grad():
        for memory in autoencoder.memories:
            memory.items.zero_()
    first, second = autoencoder(torch.randn(1, 3, 32, 32)), autoencoder(torch.randn(1, 3, 32, 32))
    assert torch.equal(first, second)


@pytest.mark.parametrize("scale", range(4))
def test_every_memory_reaches_the_reconstruction(scale) -> None:
    autoencoder = MemoryAutoencoder((64, 64), (2, 2, 1), memory_of(10), base_channels=4)
    autoencoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert autoencoder.memories[scale].items.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("connections", "memories", "scales_seen"),
    [("memory", 4, 4), ("bottleneck_memory", 1, 1), ("skip", 0, 4), ("none", 0, 1)],
)
def test_connections(connections, memories, scales_seen) -> None:
    """How many banks there are, and which scales' features the reconstruction depends on."""
    autoencoder = MemoryAutoencoder((64, 64), (2, 2, 1), memory_of(10), 4, connections).eval()
    images = torch.randn(2, 3, 64, 64)
    reconstruction, reads = autoencoder.reconstruct(images)
    assert torch.equal(reconstruction, autoencoder(images))
    assert len(reads) == sum(isinstance(memory, BlockMemory) for memory in autoencoder.memories) == memories
    features = [feature.detach().requires_grad_() for feature in autoencoder.encoder(images)]
    autoencoder.decoder(features).sum().backward()
    assert [feature.grad is not None for feature in features] == [False] * (4 - scales_seen) + [True] * scales_seen


def test_plain_connections_pass_the_features_on() -> None:
    autoencoder = MemoryAutoencoder((64, 64), None, memory_of(10), 4, "skip").eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(autoencoder(images), autoencoder.decoder(autoencoder.encoder(images)))


def test_without_rates_every_pixel_is_a_block() -> None:
    autoencoder = MemoryAutoencoder((64, 64), None, memory_of(10), 4, "memory")
    features = autoencoder.encoder(torch.randn(2, 3, 64, 64))
    for memory, feature in zip(autoencoder.memories, features, strict=True):
        queries = memory.divide(feature)
        assert torch.equal(queries, feature.flatten(2).transpose(1, 2))


def test_memories_are_the_papers_with_the_drop_as_a_ramp() -> None:
    memory = memory_of(7)((4, 8, 8), (2, 2, 1))
    assert (memory.temperature, memory.renormalize, memory.drop_below, memory.drop_width) == (1.0, False, 1.0, 1e-3)
    assert DROP_WIDTH == 1e-3
    other = memory_of(7, temperature=0.1, renormalize=True, drop_below=1.5)((4, 8, 8), (2, 2, 1))
    assert (other.temperature, other.renormalize, other.drop_below, other.drop_width) == (0.1, True, 1.5, 1e-3)
    assert len(memory.items) == len(other.items) == 7


@pytest.mark.parametrize("activation", [True, False])
def test_any_number_of_channels_with_an_activation_or_without(activation) -> None:
    autoencoder = MemoryAutoencoder((32, 48), (2, 2, 1), memory_of(5), 4, in_channels=4, activation=activation)
    autoencoder.decoder.scales[-1][0].weight.data *= 1000
    rebuilt = autoencoder(torch.rand(2, 4, 32, 48))
    assert rebuilt.shape == (2, 4, 32, 48)
    assert (rebuilt.abs().max() <= 1) == activation


@pytest.mark.parametrize(
    ("size", "rates", "connections", "words"),
    [
        ((100, 128), (2, 2, 1), "memory", ["100x128", "32x32"]),
        ((32, 32), (8, 2, 1), "memory", ["32x32", "64x16", "(8, 2)"]),
        ((44, 64), None, "memory", ["44x64", "8x8"]),
        ((32, 32), (2, 2, 3), "memory", ["(2, 2, 3)", "channels 4"]),
        ((32, 32), (0, 2, 1), "memory", ["division_rates", "at least 1", "(0, 2, 1)"]),
        ((32, 32), (2, 2, 1), "unet", ["bottleneck_memory", "unet"]),
    ],
)
def test_bad_arguments_are_named(size, rates, connections, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        MemoryAutoencoder(size, rates, memory_of(5), 4, connections)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("connections", ["skip", "none"])
def test_without_memories_division_rates_are_without_effect(connections) -> None:
    images = torch.rand(1, 3, 48, 48)
    autoencoder = MemoryAutoencoder((48, 48), (5, 7, 9), memory_of(5), 4, connections)
    assert autoencoder(images).shape == images.shape

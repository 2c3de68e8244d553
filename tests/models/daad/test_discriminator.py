# SPDX-License-Identifier: Apache-2.0

"""Discriminator."""

import pytest
import torch
from torch import nn

from anomalib_daad.models.daad.discriminator import Discriminator


def test_paper_size_has_the_papers_features() -> None:
    output = Discriminator((256, 256))(torch.randn(2, 3, 256, 256))
    assert output.logits.shape == (2,)
    assert output.features.shape == (2, 512, 4, 4)


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


def test_images_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 8x8 for a discriminator, got 7x64"):
        Discriminator((7, 64))

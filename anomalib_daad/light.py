# SPDX-License-Identifier: Apache-2.0

"""Light of an image: its mean and its contrast, which more or less light changes in proportion.

Example:
    >>> import torch
    >>> images = torch.rand(2, 3, 64, 64) * 2 - 1
    >>> mean, contrast = light(images)
    >>> mean.shape, contrast.shape
    (torch.Size([2, 1, 1, 1]), torch.Size([2, 1, 1, 1]))
"""

from typing import NamedTuple

import torch

MIN_CONTRAST = 0.02  # standard deviation of an image in [-1, 1], below which it counts as flat


class Light(NamedTuple):
    """Mean and contrast.

    Attributes:
        mean (torch.Tensor): Mean of each image, shape ``(B, 1, 1, 1)``.
        contrast (torch.Tensor): Standard deviation of each image, at least ``MIN_CONTRAST``, same shape.
    """

    mean: torch.Tensor
    contrast: torch.Tensor


def light(images: torch.Tensor) -> Light:
    """Measure the light of images.

    Args:
        images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``, float32.

    Returns:
        Light: Mean and contrast of each.
    """
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (images - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return Light(mean, contrast.clamp_min(MIN_CONTRAST))

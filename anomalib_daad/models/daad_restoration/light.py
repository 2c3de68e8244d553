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

from .detail import COLOURS

CONTRAST = 0.4  # that all images are seen with
MIN_CONTRAST = 0.02  # standard deviation of an image in [-1, 1], below which it counts as flat
MIN_DETAIL_CONTRAST = 0.01  # the same of its detail


class Light(NamedTuple):
    """Mean and contrast.

    Attributes:
        mean (torch.Tensor): Mean of each image, shape ``(B, 1, 1, 1)``; of images with detail, each channel's,
            shape ``(B, 4, 1, 1)``, the same for all colours.
        contrast (torch.Tensor): Standard deviation of each image, at least ``MIN_CONTRAST``, same shape.
    """

    mean: torch.Tensor
    contrast: torch.Tensor

    @property
    def scale(self) -> torch.Tensor:
        """What images are divided by to have equal contrast, same shape."""
        return self.contrast / CONTRAST

    def take(self, images: torch.Tensor) -> torch.Tensor:
        """Take the light from images: all then have the same mean and contrast.

        Args:
            images (torch.Tensor): Images whose light it is, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Same shape and type.
        """
        return ((images - self.mean) / self.scale).to(images.dtype)

    def give(self, images: torch.Tensor) -> torch.Tensor:
        """Give images of equal light this light back: more or less light is then no defect.

        Args:
            images (torch.Tensor): Images without light, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Same shape.
        """
        return images * self.scale + self.mean


def light(images: torch.Tensor) -> Light:
    """Measure the light of images.

    Args:
        images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``, or with detail ``(B, 4, H, W)``, float32.

    Returns:
        Light: Mean and contrast of each.
    """
    colours = _measure(images[:, :COLOURS], MIN_CONTRAST)
    if images.shape[1] == COLOURS:
        return colours
    detail = _measure(images[:, COLOURS:], MIN_DETAIL_CONTRAST)
    pairs = zip(colours, detail, strict=True)
    return Light(*(torch.cat([colour.expand(-1, COLOURS, -1, -1), other], dim=1) for colour, other in pairs))


def _measure(channels: torch.Tensor, min_contrast: float) -> Light:
    mean = channels.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (channels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return Light(mean, contrast.clamp_min(min_contrast))

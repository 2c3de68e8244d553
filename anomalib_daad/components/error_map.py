# SPDX-License-Identifier: Apache-2.0

"""Anomaly map: the smoothed difference of each pixel from its reconstruction. The paper has none.

Example:
    >>> import torch
    >>> anomaly_map = AnomalyMap(sigma=4.0)
    >>> anomaly_map(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import math

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import nn
from torch.nn.functional import conv2d, pad

from anomalib_daad.models.daad_restoration.detail import COLOURS
from anomalib_daad.models.daad_restoration.difference_maps import StructureMap
from anomalib_daad.models.daad_restoration.light import light

TRUNCATE = 4.0  # standard deviations that the kernel reaches


class AnomalyMap(nn.Module):
    """Squared error averaged over the channels, or structural difference, blurred with a Gaussian.

    Args:
        sigma (float): Standard deviation of the Gaussian in pixels of the model's input, at least 0; 0 does not
            blur. Defaults to ``4.0``.
        structure (bool): Compare with :class:`StructureMap` in place of the squared error. Defaults to ``False``.
        apart (bool): Map the structure of grey values and that of detail apart. Defaults to ``False``.

    Raises:
        ValueError: If sigma is negative.
    """

    def __init__(self, sigma: float = 4.0, structure: bool = False, apart: bool = False) -> None:
        super().__init__()
        if sigma < 0:
            msg = f"map_sigma must not be negative, got {sigma}."
            raise ValueError(msg)
        self.difference = StructureMap(apart=apart) if structure else SquaredError()
        self.blur = GaussianBlur(sigma) if sigma else nn.Identity()

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Map the difference.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.

        Returns:
            torch.Tensor: Anomaly map, shape ``(B, 1, H, W)``, at least 0, float32; of detail apart from grey values
            ``(B, 2, H, W)``.
        """
        return self.blur(self.difference(images, reconstructions))


class SquaredError(nn.Module):
    """Squared error of each pixel, averaged over the channels."""

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Compare.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.

        Returns:
            torch.Tensor: Error, shape ``(B, 1, H, W)``, float32.
        """
        return (images.float() - reconstructions.float()).square().mean(dim=1, keepdim=True)


def relative_error(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Absolute error of each pixel, averaged over the colours, relative to the contrast of its image.

    Args:
        images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``, or with detail ``(B, 4, H, W)``, whose error,
            relative to its own contrast, is added.
        reconstructions (torch.Tensor): Their reconstructions, same shape.

    Returns:
        torch.Tensor: Error, shape ``(B, 1, H, W)``, in standard deviations of the image, float32.
    """
    images = images.float()
    error = (images - reconstructions.float()).abs() / light(images).contrast
    return error[:, :COLOURS].mean(dim=1, keepdim=True) + error[:, COLOURS:].sum(dim=1, keepdim=True)


class GaussianBlur(nn.Module):
    """Gaussian blur that repeats the borders; kornia's builds its kernel anew, 70 operations, for each small map.

    Args:
        sigma (float): Standard deviation in pixels, positive.
    """

    kernel: torch.Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.reach = math.ceil(TRUNCATE * sigma)
        kernel = get_gaussian_kernel1d(2 * self.reach + 1, sigma)  # (1, K)
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Blur.

        Args:
            maps (torch.Tensor): Shape ``(B, K, H, W)``, float32.

        Returns:
            torch.Tensor: Same shape.
        """
        padded = pad(maps.flatten(0, 1)[:, None], (self.reach,) * 4, "replicate")  # (B K, 1, H + 2 reach, ...)
        blurred = conv2d(conv2d(padded, self.kernel), self.kernel.mT)
        return blurred.squeeze(1).unflatten(0, (-1, maps.shape[1]))


def maximum(maps: torch.Tensor) -> torch.Tensor:
    """Score an image by the strongest point of its map, or by the mean of its maps' strongest points.

    Args:
        maps (torch.Tensor): Shape ``(B, K, H, W)``.

    Returns:
        torch.Tensor: Shape ``(B,)``.
    """
    return maps.flatten(2).amax(dim=2).mean(dim=1)

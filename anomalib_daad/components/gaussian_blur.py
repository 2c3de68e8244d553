# SPDX-License-Identifier: Apache-2.0

"""Gaussian blur of maps, and the strongest point that is left.

Example:
    >>> import torch
    >>> GaussianBlur(4.0)(torch.rand(2, 1, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import math

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import nn
from torch.nn.functional import conv2d, pad

TRUNCATE = 4.0  # standard deviations that the kernel reaches


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

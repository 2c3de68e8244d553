# SPDX-License-Identifier: Apache-2.0

"""Antialiased resize that can be exported, and that every device computes.

Example:
    >>> import torch
    >>> ExportableResize((64, 64))(torch.rand(2, 3, 256, 200)).shape
    torch.Size([2, 3, 64, 64])
"""

import torch
from torch import nn
from torch.nn.functional import interpolate

from .precision import full_precision


class ExportableResize(nn.Module):
    """Antialiased bilinear resize from any size; two matrix products where it is traced or not on a CPU.

    PyTorch's own ended in "CUDA error: invalid argument" on a GPU (torch 2.11, 256 to 64 pixels).

    Args:
        size (tuple[int, int]): Height and width of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Resized images, shape ``(B, C, *size)``.
        """
        if torch.compiler.is_compiling():
            return self._multiply(images)
        if images.device.type == "cpu":
            return interpolate(images, self.size, mode="bilinear", antialias=True)
        with full_precision(images):  # products would be rounded under autocast, as interpolation is not
            return self._multiply(images)

    def _multiply(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images by a matrix product along each axis."""
        for dim, size in zip((-2, -1), self.size, strict=True):
            length = images.shape[dim]
            if isinstance(length, int) and length == size:
                continue
            weights = triangle_filter(length, size, images)  # (size, length)
            images = weights @ images if dim == -2 else images @ weights.T
        return images


def triangle_filter(length: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """Weights of an antialiased linear resize along one axis.

    Args:
        length (int): Pixels before.
        size (int): Pixels after.
        like (torch.Tensor): Tensor whose dtype and device the weights take.

    Returns:
        torch.Tensor: Weights, shape ``(size, length)``, each row with a sum of one.
    """
    scale = torch.full((), length, dtype=like.dtype, device=like.device) / size
    centers = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * scale
    pixels = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / scale.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(dim=1, keepdim=True)

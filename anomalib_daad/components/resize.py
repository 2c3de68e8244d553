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
    """Antialiased bilinear resize from any size; sums of a few weighed rows where it is traced or not on a CPU.

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
            return self._sum(images)
        if images.device.type == "cpu":
            return interpolate(images, self.size, mode="bilinear", antialias=True)
        with full_precision(images):  # sums would be rounded under autocast, as interpolation is not
            return self._sum(images)

    def _sum(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images along one axis after the other, rows first: they lie in one piece."""
        height, width = self.size
        return _resize_rows(_resize_rows(images, height).mT, width).mT


def _resize_rows(images: torch.Tensor, size: int) -> torch.Tensor:
    length = images.shape[-2]
    if isinstance(length, int) and length == size:
        return images
    pixels, weights = taps(length, size, images)  # (size, T)
    if isinstance(length, int):  # a matrix that an export holds; products of a few hundred rows are fast
        matrix = images.new_zeros(size, length).scatter_add_(1, pixels, weights)
        return matrix @ images
    read = images.index_select(-2, pixels.flatten()).unflatten(-2, (size, -1))  # (..., size, T, W)
    return (read * weights[..., None]).sum(dim=-2)


def taps(length: int, size: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels that an antialiased linear resize along one axis reads, and their weights.

    Args:
        length (int): Pixels before.
        size (int): Pixels after.
        like (torch.Tensor): Tensor whose dtype and device the weights take.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Indices and weights, each row of which has a sum of one, both of shape
        ``(size, T)`` with ``T`` the pixels that a triangle of the resize's width can cover.
    """
    scale = torch.full((), length, dtype=like.dtype, device=like.device) / size
    support = scale.clamp_min(1)
    centers = (torch.arange(size, dtype=like.dtype, device=like.device)[:, None] + 0.5) * scale
    count = 2 * ((length + size - 1) // size)
    pixels = (centers - support + 0.5).floor() + torch.arange(count, dtype=like.dtype, device=like.device)
    weights = (1 - (pixels + 0.5 - centers).abs() / support).clamp_min(0)
    weights = weights * ((pixels >= 0) & (pixels < length))
    return pixels.clamp(0, length - 1).long(), weights / weights.sum(dim=1, keepdim=True)

# SPDX-License-Identifier: Apache-2.0

"""Structural difference of two images: the multi-scale gradient magnitude similarity (MSGMS) of RIAD and FAIR.

Edges that are in one image and not in the other count, brightness and blur of flat regions do not.

Papers:
    GMSD: https://arxiv.org/abs/1308.3052
    RIAD: https://doi.org/10.1016/j.patcog.2020.107706

Example:
    >>> import torch
    >>> structure_map = StructureMap()
    >>> structure_map(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from .detail import COLOURS
from .light import light

CONSTANT = 0.0026  # of the GMSD paper, for grey values in [0, 1]
SCALES = 4
DETAIL_CONTRAST = 0.4  # at which detail is compared: its own differs from product to product


class StructureMap(nn.Module):
    """One minus the similarity of the gradients' magnitudes, averaged over scales.

    Args:
        scales (int): Resolutions to compare at, each half of the one before. Defaults to ``4``.
        apart (bool): Return what differs in grey values and what in detail apart, in place of their mean. Defaults to
            ``False``.
    """

    prewitt: torch.Tensor

    def __init__(self, scales: int = SCALES, apart: bool = False) -> None:
        super().__init__()
        self.apart = apart
        self.scales = scales
        across = torch.tensor([1.0, 0.0, -1.0]).expand(3, 3) / 3
        self.register_buffer("prewitt", torch.stack([across, across.T])[:, None], persistent=False)  # (2, 1, 3, 3)

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Compare.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``, or with detail ``(B, 4, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.

        Returns:
            torch.Tensor: Difference, shape ``(B, 1, H, W)``, in [0, 1], float32; with detail apart ``(B, 2, H, W)``.
        """
        grey = [self._grey(x) for x in (images.float(), reconstructions.float())]
        if images.shape[1] == COLOURS:
            return self._compare(*grey)
        mean, contrast = (x[:, COLOURS:] for x in light(images.float()))
        detail = [(x[:, COLOURS:] - mean) / contrast * (DETAIL_CONTRAST / 2) for x in (images, reconstructions)]
        both = self._compare(*(torch.cat(pair) for pair in zip(grey, detail, strict=True)))  # (2 B, 1, H, W)
        apart = torch.cat(both.unflatten(0, (2, -1)).unbind(), dim=1)  # (B, 2, H, W)
        return apart if self.apart else apart.mean(dim=1, keepdim=True)

    @staticmethod
    def _grey(images: torch.Tensor) -> torch.Tensor:
        return images[:, :COLOURS].mean(dim=1, keepdim=True) / 2

    def _compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compare images of one channel, in units of grey values in [0, 1], shape ``(B, 1, H, W)``."""
        size = first.shape[-2:]
        pair = torch.cat([first, second])  # (2 B, 1, H, W)
        total = torch.zeros_like(first)
        for _ in range(self.scales):
            g, h = self._gradient(pair).unflatten(0, (2, -1))
            difference = (g - h).square() / (g.square() + h.square() + CONSTANT)  # 1 - (2 g h + c) / (g² + h² + c)
            total = total + interpolate(difference, size, mode="bilinear")
            pair = avg_pool2d(pair, 2)
        return total / self.scales

    def _gradient(self, grey: torch.Tensor) -> torch.Tensor:
        slopes = conv2d(pad(grey, (1, 1, 1, 1), "replicate"), self.prewitt)  # (B, 2, H, W)
        return (slopes.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()

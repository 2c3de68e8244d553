# SPDX-License-Identifier: Apache-2.0

"""How an image and its restoration differ, pixel by pixel: structure of grey values and of detail, error, colour.

Structure is the multi-scale gradient magnitude similarity (MSGMS) of RIAD and FAIR: edges that are in one image and not
in the other count, brightness and blur of flat regions do not. The error is relative to the image's contrast.

Papers:
    GMSD: https://arxiv.org/abs/1308.3052
    RIAD: https://doi.org/10.1016/j.patcog.2020.107706

Example:
    >>> import torch
    >>> images, restorations = torch.rand(2, 4, 64, 64), torch.rand(2, 4, 64, 64)
    >>> StructureMaps()(images, restorations).shape, relative_error(images, restorations).shape
    (torch.Size([2, 2, 64, 64]), torch.Size([2, 1, 64, 64]))
    >>> colour_error(images, restorations).shape
    torch.Size([2, 1, 64, 64])
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.gaussian_blur import maximum

from .detail import COLOURS
from .light import light

CONSTANT = 0.0026  # of the GMSD paper, for grey values in [0, 1]
SCALES = 4
DETAIL_CONTRAST = 0.4  # at which detail is compared: its own differs from product to product
LEAST_DEVIATIONS = (1e-6, 1e-6, 1e-6, 1e-6, 0.002)  # of each of Maps; grey products have a tenth of that in colour
ERROR_WEIGHT = 2.0  # of the error in the anomaly map, beside that of structure: it outlines small defects better
COLOUR_WEIGHT = 0.25  # of the error of colour in the map: specks that it tells of far exceed what is usual


class Maps(NamedTuple):
    """How images and their restorations differ, standardised: 0 is what good images have there, 1 their deviation.

    Attributes:
        structure (torch.Tensor): Structure of grey values, shape ``(B, 1, h, w)``.
        detail (torch.Tensor): Structure of detail, same shape.
        comparison (torch.Tensor): What the learned comparison says, same shape.
        error (torch.Tensor): Error relative to contrast, same shape.
        colour (torch.Tensor | None): Error of the colour alone, same shape; None of a model that was trained without.
    """

    structure: torch.Tensor
    detail: torch.Tensor
    comparison: torch.Tensor
    error: torch.Tensor
    colour: torch.Tensor | None = None

    def scores(self) -> Scores:
        """Score each image by the strongest points of its maps.

        Returns:
            Scores: R(x), the mean over structure, detail, error and colour, and in L(x)'s place that of the comparison.
        """
        found = [self.structure, self.detail, self.error, *([] if self.colour is None else [self.colour])]
        return Scores(maximum(torch.cat(found, dim=1)), maximum(self.comparison))

    def differences(self) -> torch.Tensor:
        """Add the maps that image and restoration differ in without having learnt it.

        Returns:
            torch.Tensor: The part of the anomaly map that is scaled as R(x) is, shape ``(B, 1, h, w)``.
        """
        fused = (self.structure + self.detail) / 2 + ERROR_WEIGHT * self.error
        return fused if self.colour is None else fused + COLOUR_WEIGHT * self.colour


class StructureMaps(nn.Module):
    """One minus the similarity of the gradients' magnitudes, averaged over scales, of grey values and of detail.

    Args:
        scales (int): Resolutions to compare at, each half of the one before. Defaults to ``4``.
    """

    prewitt: torch.Tensor

    def __init__(self, scales: int = SCALES) -> None:
        super().__init__()
        self.scales = scales
        across = torch.tensor([1.0, 0.0, -1.0]).expand(3, 3) / 3
        self.register_buffer("prewitt", torch.stack([across, across.T])[:, None], persistent=False)  # (2, 1, 3, 3)

    def forward(self, images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
        """Compare.

        Args:
            images (torch.Tensor): Images in [-1, 1] and their detail, shape ``(B, 4, H, W)``.
            restorations (torch.Tensor): Their restorations, same shape.

        Returns:
            torch.Tensor: Differences of grey values and of detail, shape ``(B, 2, H, W)``, in [0, 1], float32.
        """
        grey = [x[:, :COLOURS].mean(dim=1, keepdim=True) / 2 for x in (images.float(), restorations.float())]
        mean, contrast = (x[:, COLOURS:] for x in light(images.float()))
        detail = [(x[:, COLOURS:] - mean) / contrast * (DETAIL_CONTRAST / 2) for x in (images, restorations)]
        both = self.compare(*(torch.cat(pair) for pair in zip(grey, detail, strict=True)))  # (2 B, 1, H, W)
        return torch.cat(both.unflatten(0, (2, -1)).unbind(), dim=1)

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compare images of one channel.

        Args:
            first (torch.Tensor): Images in units of grey values in [0, 1], shape ``(B, 1, H, W)``, float32.
            second (torch.Tensor): Others, same shape.

        Returns:
            torch.Tensor: Difference, same shape, in [0, 1].
        """
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


def relative_error(images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
    """Absolute error of each pixel, averaged over the colours, relative to the contrast of its image.

    Args:
        images (torch.Tensor): Images in [-1, 1] and their detail, shape ``(B, 4, H, W)``; the error of detail, relative
            to its own contrast, is added.
        restorations (torch.Tensor): Their restorations, same shape.

    Returns:
        torch.Tensor: Error, shape ``(B, 1, H, W)``, in standard deviations of the image, float32.
    """
    images = images.float()
    error = (images - restorations.float()).abs() / light(images).contrast
    return error[:, :COLOURS].mean(dim=1, keepdim=True) + error[:, COLOURS:].sum(dim=1, keepdim=True)


def colour_error(images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
    """Absolute error of each pixel's colours beside the error of their mean, relative to the contrast of its image.

    Args:
        images (torch.Tensor): Images in [-1, 1] and their detail, which is not looked at, shape ``(B, 4, H, W)``.
        restorations (torch.Tensor): Their restorations, same shape.

    Returns:
        torch.Tensor: Error, averaged over the colours, shape ``(B, 1, H, W)``, in standard deviations of the image,
        float32; 0 where all colours are wrong alike.
    """
    images = images.float()
    error = ((images - restorations.float()) / light(images).contrast)[:, :COLOURS]
    return (error - error.mean(dim=1, keepdim=True)).abs().mean(dim=1, keepdim=True)

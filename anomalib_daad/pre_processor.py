# SPDX-License-Identifier: Apache-2.0

"""Pre-processor whose exported resize gives what training saw.

anomalib resizes with antialiasing while it trains and without it in an export, because ONNX has no antialiased
resize that every runtime supports. A model fed 1024-pixel images at 256 pixels then sees other images in production
than it was calibrated on. Here the exported resize is the same antialiased filter written as two matrix products.

Example:
    >>> import torch
    >>> from torchvision.transforms.v2 import Compose, Normalize, Resize
    >>> pre_processor = AntialiasPreProcessor(Compose([Resize((64, 64)), Normalize([0.5] * 3, [0.5] * 3)]))
    >>> pre_processor(torch.rand(1, 3, 200, 300)).shape
    torch.Size([1, 3, 64, 64])
"""

from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform


class AntialiasPreProcessor(PreProcessor):
    """anomalib's pre-processor with an antialiased resize in exports.

    Args:
        transform (Transform | None): Transform of images in [0, 1]. A bilinear, antialiased ``Resize`` to a fixed
            height and width is exported as it is; other transforms as anomalib exports them. Defaults to ``None``.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.export_transform = _exportable(transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform from a checkpoint.

        Args:
            config (dict[str, Any]): What ``checkpoint_config`` returned.
        """
        super().load_checkpoint_config(config)
        self.export_transform = _exportable(self.transform)


class ExportableResize(nn.Module):
    """Antialiased bilinear resize from any size that traces to two matrix products.

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
        if not torch.compiler.is_compiling():
            return interpolate(images, self.size, mode="bilinear", antialias=True)
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


def _exportable(transform: Transform | None) -> nn.Module | None:
    if isinstance(transform, Compose):
        return Compose([_exportable(child) for child in transform.transforms])
    if (
        isinstance(transform, Resize)
        and transform.antialias
        and InterpolationMode(transform.interpolation) == InterpolationMode.BILINEAR
        and len(transform.size) == 2
    ):
        return ExportableResize(tuple(transform.size))
    return get_exportable_transform(transform)

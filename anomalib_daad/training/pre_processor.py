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

from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_daad.components.resize import ExportableResize


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

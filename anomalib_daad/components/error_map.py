# SPDX-License-Identifier: Apache-2.0

"""Anomaly map: the blurred squared error of each pixel. The paper has none.

Example:
    >>> import torch
    >>> error_map = ErrorMap()
    >>> error_map(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import torch
from torch import nn

from .gaussian_blur import GaussianBlur

SIGMA = 4.0  # pixels


class ErrorMap(nn.Module):
    """Squared error, averaged over the channels and blurred with a Gaussian of 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = GaussianBlur(SIGMA)

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Map the error.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.

        Returns:
            torch.Tensor: Anomaly map, shape ``(B, 1, H, W)``, at least 0, float32.
        """
        return self.blur((images.float() - reconstructions.float()).square().mean(dim=1, keepdim=True))

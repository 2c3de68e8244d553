# SPDX-License-Identifier: Apache-2.0

"""Images made smaller, without losing that there was detail: how much of it, pixel by pixel, is a fourth channel.

A scratch one pixel wide is gone from an image a quarter of the size. What it leaves is that the image and the small
one, enlarged again, differ there more than elsewhere. Networks of small images learn more in the same time;
with the detail beside the colours they see fine defects too.

Example:
    >>> import torch
    >>> Detail((256, 256), 4)(torch.rand(2, 3, 256, 256) * 2 - 1).shape
    torch.Size([2, 4, 64, 64])
"""

import torch
from torch import nn
from torch.nn.functional import interpolate

from anomalib_daad.components.resize import ExportableResize

COLOURS = 3  # channels before the detail


class Detail(nn.Module):
    """Resize images, and tell the root mean square of what that takes away.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        factor (int): How many times smaller they become, at least 2; divides the size.
    """

    def __init__(self, image_size: tuple[int, int], factor: int) -> None:
        super().__init__()
        height, width = image_size
        self.resize = ExportableResize((height // factor, width // factor))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Make images smaller.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: The small images and their detail, at least 0, shape ``(B, 4, H / factor, W / factor)``,
            float32.
        """
        images = images.float()
        small = self.resize(images)
        lost = interpolate(small, images.shape[-2:], mode="bilinear").sub_(images)  # large: two thirds less memory
        detail = self.resize(lost.square_().mean(dim=1, keepdim=True)).sqrt()
        return torch.cat([small, detail], dim=1)

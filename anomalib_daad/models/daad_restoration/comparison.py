# SPDX-License-Identifier: Apache-2.0

"""Learned comparison of an image and its restoration, as DRAEM's discriminative network: where is a defect?

It learns from the corruptions that restoration training makes, whose places are known. It sees every image with the
same mean and contrast, so that brighter or darker light is no defect to it.

Paper:
    DRAEM: https://arxiv.org/abs/2108.07610

Example:
    >>> import torch
    >>> comparison = Comparison(num_scales=4)
    >>> comparison(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import torch
from torch import nn

from anomalib_daad.components.encoder_decoder import Decoder, Encoder, scale_channels

from .detail import COLOURS
from .light import light

BASE_CHANNELS = 16


class Comparison(nn.Module):
    """U-Net over image, restoration, their difference and its absolute value.

    Args:
        num_scales (int): Scales; height and width of the images are divisible by ``2**num_scales``.
    """

    def __init__(self, num_scales: int) -> None:
        super().__init__()
        channels = scale_channels(BASE_CHANNELS, num_scales)
        # Zeros beyond the borders would leave corners less sure than anything inside that no corruption is there.
        self.encoder = Encoder(12, channels, "replicate")
        self.decoder = Decoder(channels, 1, activation=False, border="replicate")
        # Differences are small beside images.
        self.norm = nn.BatchNorm2d(12, affine=False)

    def forward(self, images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
        """Compare.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``; detail, as a fourth channel, is not looked
                at.
            restorations (torch.Tensor): Their restorations, same shape.

        Returns:
            torch.Tensor: Logit of each pixel being defective, shape ``(B, 1, H, W)``, float32.
        """
        images, restorations = images[:, :COLOURS].float(), restorations[:, :COLOURS].float()
        mean, contrast = light(images)
        images, restorations = (images - mean) / contrast, (restorations - mean) / contrast
        difference = images - restorations
        # A network with the absolute value before its eyes learns several times as fast.
        both = torch.cat([images, restorations, difference, difference.abs()], dim=1)  # (B, 12, H, W)
        return self.decoder(self.encoder(self.norm(both))).float()

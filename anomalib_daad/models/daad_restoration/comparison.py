# SPDX-License-Identifier: Apache-2.0

"""Learned comparison of an image and its reconstruction, as DRAEM's discriminative network: where is a defect?

It learns from the corruptions that restoration training makes, whose places are known. It sees every image with the
same mean and contrast, so that brighter or darker light is no defect to it.

Paper:
    DRAEM: https://arxiv.org/abs/2108.07610

Example:
    >>> import torch
    >>> comparison = Comparison(base_channels=16)
    >>> comparison(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
"""

import torch
from torch import nn

from anomalib_daad.components.autoencoder import Decoder, Encoder, scale_channels

from .detail import COLOURS
from .light import light

SCALES = 4


class Comparison(nn.Module):
    """U-Net over image, reconstruction, their difference and its absolute value.

    Args:
        base_channels (int): Channels of the finest scale.
    """

    def __init__(self, base_channels: int) -> None:
        super().__init__()
        channels = scale_channels(base_channels, SCALES)
        # Zeros beyond the borders would leave corners less sure than anything inside that no corruption is there.
        self.encoder = Encoder(12, channels, "replicate")
        self.decoder = Decoder(channels, 1, activation=False, border="replicate")
        # Differences are small beside images.
        self.norm = nn.BatchNorm2d(12, affine=False)

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Compare.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``; detail, as a fourth channel, is not looked
                at.
            reconstructions (torch.Tensor): Their reconstructions, same shape.

        Returns:
            torch.Tensor: Logit of each pixel being defective, shape ``(B, 1, H, W)``, float32.
        """
        images, reconstructions = images[:, :COLOURS].float(), reconstructions[:, :COLOURS].float()
        mean, contrast = light(images)
        images, reconstructions = (images - mean) / contrast, (reconstructions - mean) / contrast
        difference = images - reconstructions
        # A network with the absolute value before its eyes learns several times as fast.
        both = torch.cat([images, reconstructions, difference, difference.abs()], dim=1)  # (B, 12, H, W)
        return self.decoder(self.encoder(self.norm(both))).float()

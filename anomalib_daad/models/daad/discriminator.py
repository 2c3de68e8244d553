# SPDX-License-Identifier: Apache-2.0

"""DCGAN's discriminator, whose last convolution gives DAAD its semantic features (section 3.1.3, Figure 4).

Example:
    >>> import torch
    >>> discriminator = Discriminator(image_size=(256, 256))
    >>> output = discriminator(torch.randn(2, 3, 256, 256))
    >>> output.logits.shape, output.features.shape
    (torch.Size([2]), torch.Size([2, 512, 4, 4]))
"""

from typing import NamedTuple

import torch
from torch import nn

from anomalib_daad.components.encoder_decoder import Encoder, initialize_weights, scale_channels

MIN_SIZE = 4


class DiscriminatorOutput(NamedTuple):
    """What the discriminator makes of images.

    Attributes:
        logits (torch.Tensor): Logit of the image being real, shape ``(B,)``.
        features (torch.Tensor): Features ``f_D`` of the last convolution, shape ``(B, C, h, w)``, h and w from 4 to 7.
    """

    logits: torch.Tensor
    features: torch.Tensor


class Discriminator(nn.Module):
    """Strided convolutions down to 4 to 7 pixels a side, then one that reads the whole grid.

    Args:
        image_size (tuple[int, int]): Height and width of the images, at least 8.
        base_channels (int): Channels of the first convolution; doubled at each one, up to 512. Defaults to ``64``.

    Raises:
        ValueError: If the images are too small for one strided convolution.
    """

    def __init__(self, image_size: tuple[int, int], base_channels: int = 64) -> None:
        super().__init__()
        height, width = image_size
        if min(height, width) < 2 * MIN_SIZE:
            msg = (
                f"image_size must be at least {2 * MIN_SIZE}x{2 * MIN_SIZE} for a discriminator, got {height}x{width}."
            )
            raise ValueError(msg)
        depth = (min(height, width) // MIN_SIZE).bit_length() - 1
        channels = scale_channels(base_channels, depth)
        self.layers = Encoder(3, channels)
        self.classifier = nn.Conv2d(channels[-1], 1, (height >> depth, width >> depth))
        self.apply(initialize_weights)

    def forward(self, images: torch.Tensor) -> DiscriminatorOutput:
        """Judge images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            DiscriminatorOutput: Logits and features.
        """
        features = self.features(images)
        return DiscriminatorOutput(logits=self.classifier(features).flatten(), features=features)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Extract the features ``f_D`` alone.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: Features, shape ``(B, C, h, w)``.
        """
        return self.layers(images)[-1]

# SPDX-License-Identifier: Apache-2.0

"""MNAD's reconstruction model as a plain PyTorch module, built of DAAD's encoder and decoder.

Example:
    >>> import torch
    >>> model = MnadModel((64, 64), num_items=10, gamma=0.7, base_channels=64).eval()
    >>> model(torch.rand(2, 3, 64, 64) * 2 - 1).pred_score.shape
    torch.Size([2])
"""

from typing import NamedTuple

import torch

from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.components.encoder_decoder import Decoder, Encoder, initialize_weights, scale_channels
from anomalib_daad.components.error_map import ErrorMap
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.image_size import count_scales, refuse_image_size
from anomalib_daad.components.network import AnomalyNetwork, Explanation, Judgement, Wording

from .prototype_memory import PrototypeMemory


class MnadOutput(NamedTuple):
    """What the losses need.

    Attributes:
        reconstructions (torch.Tensor): Shape ``(B, 3, H, W)``, in [-1, 1].
        reads (list[MemoryRead]): What the memory did; empty without one.
    """

    reconstructions: torch.Tensor
    reads: list[MemoryRead]


class MnadModel(AnomalyNetwork):
    """MNAD for the reconstruction task, with its memory or without.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        num_items (int): Memory items; 0 is the variant without memory.
        gamma (float): Weight of PSNR in the score, the paper's lambda.
        base_channels (int): Channels of the finest scale.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.
    """

    wording = Wording(
        reconstruction="the negative peak signal-to-noise ratio of the reconstruction",
        alignment="the mean distance of its features from the memory",
    )

    def __init__(self, image_size: tuple[int, int], num_items: int, gamma: float, base_channels: int) -> None:
        super().__init__(image_size, gamma)
        down = 2**self.num_scales
        refuse_image_size(self.image_size, lambda size: (2 ** count_scales(size),) * 2, f"the {down}x down-sampling")
        channels = scale_channels(base_channels, self.num_scales)
        self.encoder = Encoder(3, channels)
        convolution, *_ = self.encoder.scales[-1].children()
        self.encoder.scales[-1] = convolution  # no norm and no activation: queries have signs, as in MNAD
        self.memory = PrototypeMemory(channels[-1], num_items) if num_items else None
        self.decoder = Decoder(channels, 3, skips=False, bottleneck=(1 + (num_items > 0)) * channels[-1])
        self.apply(initialize_weights)
        self.error_map = ErrorMap()

    def reconstruct_for_losses(self, images: torch.Tensor) -> MnadOutput:
        """Reconstruct images, and tell what the memory did."""
        return self.reconstruct(images)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Score images by PSNR and by the distance of their features from the memory, and map the error."""
        output = self.reconstruct(images)
        return Judgement(self.compare(images, output), self.error_map(images, output.reconstructions))

    def explain(self, images: torch.Tensor) -> Explanation:
        """Show images and reconstructions."""
        images = self.cover(images)
        return Explanation(images, *self.reconstruct(images))

    def reconstruct(self, images: torch.Tensor) -> MnadOutput:
        """Reconstruct images, and tell what the memory did.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            MnadOutput: Reconstructions and reads.
        """
        features = self.encoder(images)[-1]
        if self.memory is None:
            return MnadOutput(self.decoder([features]), [])
        read = self.memory.read(features)
        return MnadOutput(self.decoder([read.features]), [read])

    def compare(self, images: torch.Tensor, output: MnadOutput) -> Scores:
        """Score images by what was made of them.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.
            output (MnadOutput): Their reconstructions, and what the memory did.

        Returns:
            Scores: Negative PSNR, and the distance of the queries from the memory, None without one.
        """
        distance = feature_distance(output.reads[0]) if output.reads else None
        return Scores(negative_psnr(images, output.reconstructions), distance)


def negative_psnr(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Negative peak signal-to-noise ratio, so that larger is more anomalous.

    Args:
        images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.
        reconstructions (torch.Tensor): Their reconstructions, same shape.

    Returns:
        torch.Tensor: Decibels, shape ``(B,)``, of images scaled to [0, 1]; -100 for a perfect reconstruction.
    """
    error = (images.float() - reconstructions.float()).div(2).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(error.clamp_min(1e-10))


def feature_distance(read: MemoryRead) -> torch.Tensor:
    """Mean distance of the queries of an image and the items nearest to them.

    Args:
        read (MemoryRead): What the memory did.

    Returns:
        torch.Tensor: Distance of unit vectors, shape ``(B,)``, in [0, 2].
    """
    similarity = (read.queries @ read.items.T).amax(dim=2)  # (B, Q)
    return (2 - 2 * similarity).clamp_min(1e-12).sqrt().mean(dim=1)

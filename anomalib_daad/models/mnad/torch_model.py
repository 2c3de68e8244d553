# SPDX-License-Identifier: Apache-2.0

"""MNAD's reconstruction model as a plain PyTorch module, built of DAAD's encoder and decoder.

Example:
    >>> import torch
    >>> model = MnadModel(image_size=(64, 64)).eval()
    >>> model(torch.rand(2, 3, 64, 64) * 2 - 1).pred_score.shape
    torch.Size([2])
"""

from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_daad.components.autoencoder import Decoder, Encoder, check_image_size, initialize_weights, scale_channels
from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.components.error_map import AnomalyMap
from anomalib_daad.components.finite_input import flag_not_finite
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.components.precision import full_precision
from anomalib_daad.models.daad.torch_model import Scores, check_images

from .prototype_memory import PrototypeMemory


class MnadOutput(NamedTuple):
    """What the losses need.

    Attributes:
        reconstructions (torch.Tensor): Shape ``(B, 3, H, W)``, in [-1, 1].
        reads (list[MemoryRead]): What the memory did; empty without one.
    """

    reconstructions: torch.Tensor
    reads: list[MemoryRead]


class MnadModel(nn.Module):
    """MNAD for the reconstruction task, with its memory or without.

    Args:
        image_size (tuple[int, int]): Height and width of the images. Defaults to ``(256, 256)``.
        num_items (int): Memory items; 0 is the variant without memory. Defaults to ``10``.
        gamma (float): Weight of PSNR in the score, the paper's lambda. Defaults to ``0.7``.
        num_scales (int): Scales of the autoencoder. Defaults to ``4``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        map_sigma (float): Blur of the anomaly map in pixels. Defaults to ``4.0``.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        num_items: int = 10,
        gamma: float = 0.7,
        num_scales: int = 4,
        base_channels: int = 64,
        map_sigma: float = 4.0,
    ) -> None:
        super().__init__()
        check_image_size(image_size, None, num_scales)
        self.image_size = tuple(image_size)
        self.num_scales = num_scales
        channels = scale_channels(base_channels, num_scales)
        self.encoder = Encoder(3, channels)
        self.memory = PrototypeMemory(channels[-1], num_items) if num_items else None
        self.decoder = Decoder(channels, 3, skips=False, bottleneck=(1 + (num_items > 0)) * channels[-1])
        self.apply(initialize_weights)
        self.score = FusedScore(gamma)
        self.anomaly_map = AnomalyMap(map_sigma)

    def forward(self, images: torch.Tensor) -> MnadOutput | InferenceBatch:
        """Reconstruct and judge images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            MnadOutput | InferenceBatch: In training what the losses need; in evaluation the score, shape ``(B,)``,
            and the anomaly map, shape ``(B, 1, H, W)``, without gradient.

        Raises:
            ValueError: If the images do not have the size that the model was built for.
        """
        check_images(images, (3, *self.image_size))
        if self.training:
            return self.reconstruct(images)
        if torch.compiler.is_compiling():
            return self._infer(images)
        with torch.no_grad(), full_precision(images):
            return self._infer(images)

    def _infer(self, images: torch.Tensor) -> InferenceBatch:
        output = self.reconstruct(images)
        return flag_not_finite(
            images,
            score=self.score(*_compare(images, output)),
            anomaly_map=self.anomaly_map(images, output.reconstructions),
        )

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

    def scores(self, images: torch.Tensor) -> Scores:
        """Compute the two parts of the score, in full precision also under autocast.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Scores: Negative PSNR, and the distance of the queries from the memory, of each image, not scaled.

        Raises:
            ValueError: If the images do not have the size that the model was built for.
        """
        check_images(images, (3, *self.image_size))
        with full_precision(images):
            return _compare(images, self.reconstruct(images))


def _compare(images: torch.Tensor, output: MnadOutput) -> Scores:
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

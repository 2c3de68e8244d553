# SPDX-License-Identifier: Apache-2.0

"""DAAD as a plain PyTorch module: reconstruct from memory, compare with the input, score.

Example:
    >>> import torch
    >>> network = DaadModel(image_size=(128, 128)).eval()
    >>> batch = network(torch.rand(2, 3, 128, 128) * 2 - 1)
    >>> batch.pred_score.shape, batch.anomaly_map.shape
    (torch.Size([2]), torch.Size([2, 1, 128, 128]))
"""

from typing import Any, Literal, NamedTuple, get_args

import torch

from anomalib_daad.components.autoencoder import Connections, MemoryAutoencoder, Rates, memory_of
from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.components.distance import sample_distance
from anomalib_daad.components.error_map import ErrorMap
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.network import AnomalyNetwork, Explanation, Judgement, Wording

from .discriminator import Discriminator, DiscriminatorOutput

Addressing = Literal["sharp", "paper"]
# How blocks address a memory. Eq. 1 as printed cannot choose: no weight exceeds 7.4 / N.
ADDRESSING: dict[str, dict[str, Any]] = {
    "sharp": {"temperature": 0.05, "init": "uniform", "renormalize": True},
    "paper": {},
}


class TrainingOutput(NamedTuple):
    """What the losses need; the discriminator's outputs are None without adversarial training.

    Attributes:
        reconstructions (torch.Tensor): Shape ``(B, 3, H, W)``, in [-1, 1].
        real (DiscriminatorOutput | None): Discriminator's output for the images.
        fake (DiscriminatorOutput | None): Discriminator's output for the reconstructions.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
    """

    reconstructions: torch.Tensor
    real: DiscriminatorOutput | None
    fake: DiscriminatorOutput | None
    reads: list[MemoryRead]


class DaadModel(AnomalyNetwork):
    """DAAD (``adversarial=False``) or DAAD+ (``adversarial=True``).

    Args:
        image_size (tuple[int, int]): Height and width of the images. Defaults to ``(256, 256)``.
        division_rates (tuple[int, int, int] | None): Divisions ``(r_h, r_w, r_c)`` of the features of every scale;
            ``None`` divides them into pixels. Defaults to ``(8, 8, 1)``.
        num_items (int): Memory items N of each scale. Defaults to ``500``.
        connections (str): What connects encoder and decoder, see :class:`MemoryAutoencoder`. Defaults to
            ``"memory"``.
        adversarial (bool): Add the discriminator and the alignment score L(x). Defaults to ``True``.
        gamma (float): Weight of R(x) in the fused score (eq. 7). Defaults to ``0.9``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        addressing (str): ``"sharp"``, cosines at temperature 0.05, uniform initial items, weights renormalised after
            the drop; or ``"paper"``, eq. 1 as printed, with items from N(0, 1). Defaults to ``"sharp"``.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.
    """

    wording = Wording(
        reconstruction="the distance of image and reconstruction",
        alignment="that of their features in the discriminator",
    )

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        division_rates: Rates | None = (8, 8, 1),
        num_items: int = 500,
        connections: Connections = "memory",
        adversarial: bool = True,
        gamma: float = 0.9,
        base_channels: int = 64,
        addressing: Addressing = "sharp",
    ) -> None:
        super().__init__(image_size, gamma)
        if addressing not in ADDRESSING:
            msg = f"addressing must be one of {get_args(Addressing)}, got {addressing!r}."
            raise ValueError(msg)
        memory = memory_of(num_items, **ADDRESSING[addressing])
        self.autoencoder = MemoryAutoencoder(self.image_size, division_rates, memory, base_channels, connections)
        self.discriminator = Discriminator(self.image_size, base_channels) if adversarial else None
        self.error_map = ErrorMap()

    def reconstruct_for_losses(self, images: torch.Tensor) -> TrainingOutput:
        """Reconstruct images, and let the discriminator judge both; see :class:`TrainingOutput`."""
        reconstructions, reads = self.autoencoder.reconstruct(images)
        if self.discriminator is None:
            return TrainingOutput(reconstructions, None, None, reads)
        return TrainingOutput(reconstructions, self.discriminator(images), self.discriminator(reconstructions), reads)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Score images by R(x) and L(x) (section 3.3), and map the error."""
        reconstructions = self.autoencoder(images)
        anomaly_map = self.error_map(images, reconstructions)
        reconstruction = sample_distance(images, reconstructions)
        if self.discriminator is None:
            return Judgement(Scores(reconstruction, None), anomaly_map)
        features = self.discriminator.features(torch.cat([images, reconstructions]))
        count = images.shape[0]
        return Judgement(Scores(reconstruction, sample_distance(features[:count], features[count:])), anomaly_map)

    def explain(self, images: torch.Tensor) -> Explanation:
        """Show images and reconstructions."""
        images = self.cover(images)
        return Explanation(images, *self.autoencoder.reconstruct(images))

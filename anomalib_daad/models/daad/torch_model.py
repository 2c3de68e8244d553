# SPDX-License-Identifier: Apache-2.0

"""DAAD as a plain PyTorch module: reconstruct from memory, compare with the input, score.

Example:
    >>> import torch
    >>> model = DaadModel(image_size=(128, 128)).eval()
    >>> batch = model(torch.rand(2, 3, 128, 128) * 2 - 1)
    >>> batch.pred_score.shape, batch.anomaly_map.shape
    (torch.Size([2]), torch.Size([2, 1, 128, 128]))
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn.functional import interpolate

from anomalib_daad.components.autoencoder import WITH_MEMORY, Connections, MemoryAutoencoder, check_image_size
from anomalib_daad.components.block_memory import MemoryInit, MemoryRead
from anomalib_daad.components.error_map import AnomalyMap, maximum, relative_error
from anomalib_daad.components.finite_input import flag_not_finite
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.components.precision import full_precision
from anomalib_daad.models.daad_restoration.comparison import Comparison
from anomalib_daad.models.daad_restoration.detail import Downscale
from anomalib_daad.models.daad_restoration.map_standardization import MapStandardization
from anomalib_daad.models.daad_restoration.placement import Placed, PlacementSearch

from .discriminator import Discriminator, DiscriminatorOutput
from .loss import Distance, sample_distance

ERROR_WEIGHT = 2.0  # of the error's map beside that of R(x): it outlines small defects better
ScoreKind = Literal["mean_error", "maximum_error", "maximum_structure", "maxima"]


class TrainingOutput(NamedTuple):
    """What the losses need; the discriminator's outputs are None without adversarial training.

    Attributes:
        reconstructions (torch.Tensor): Shape ``(B, 3, H, W)``, in [-1, 1].
        real (DiscriminatorOutput | None): Discriminator's output for the images.
        fake (DiscriminatorOutput | None): Discriminator's output for the reconstructions.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
        defects (torch.Tensor | None): What the learned comparison says, logits, shape ``(B, 1, H, W)``; None without.
    """

    reconstructions: torch.Tensor
    real: DiscriminatorOutput | None
    fake: DiscriminatorOutput | None
    reads: list[MemoryRead]
    defects: torch.Tensor | None


class Maps(NamedTuple):
    """How an image and its reconstruction differ, pixel by pixel.

    Attributes:
        reconstruction (torch.Tensor): Squared error or structural difference, shape ``(B, 1, H, W)``, or structural
            difference of grey values and of detail, shape ``(B, 2, H, W)``.
        comparison (torch.Tensor | None): What the learned comparison says, shape ``(B, 1, H, W)``; None without.
        error (torch.Tensor | None): Error relative to the image's contrast, same; None without ``error_map``.
    """

    reconstruction: torch.Tensor
    comparison: torch.Tensor | None
    error: torch.Tensor | None

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Maps":
        """Change all maps alike.

        Args:
            change (Callable[[torch.Tensor], torch.Tensor]): Makes of maps, of any number, others.

        Returns:
            Maps: What it makes of each.
        """
        others = (None if one is None else change(one) for one in (self.comparison, self.error))
        return Maps(change(self.reconstruction), *others)


class Scores(NamedTuple):
    """The two parts of the fused score, not yet scaled.

    Attributes:
        reconstruction (torch.Tensor): R(x), shape ``(B,)``.
        alignment (torch.Tensor | None): L(x), or in its place the learned comparison's score, shape ``(B,)``; None
            without either.
    """

    reconstruction: torch.Tensor
    alignment: torch.Tensor | None


class DaadModel(nn.Module):
    """DAAD (``adversarial=False``) or DAAD+ (``adversarial=True``).

    Args:
        image_size (tuple[int, int]): Height and width of the images. Defaults to ``(256, 256)``.
        division_rates (tuple[int, int, int] | None): Divisions ``(r_h, r_w, r_c)`` of the features of every scale;
            ``None`` divides them into pixels. Defaults to ``(8, 8, 1)``.
        num_items (int): Memory items N of each scale. Defaults to ``500``.
        adversarial (bool): Add the discriminator and the alignment score L(x). Defaults to ``True``.
        gamma (float): Weight of R(x) in the fused score (eq. 7). Defaults to ``0.9``.
        num_scales (int): Scales of the autoencoder. Defaults to ``4``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        temperature (float): Softmax temperature of the memory. Defaults to ``1.0``.
        renormalize (bool): Renormalise the memory weights after the drop. Defaults to ``False``.
        memory_init (str): Initial memory items, see :class:`BlockMemory`. Defaults to ``"normal"``.
        distance (str): Distance in R(x) and L(x), see :func:`sample_distance`. Defaults to ``"l2"``.
        map_sigma (float): Blur of the anomaly map in pixels. Defaults to ``4.0``.
        drop_below (float): Weights below ``drop_below / N`` are dropped. Defaults to ``1.0``.
        connections (str): What connects encoder and decoder, see :class:`MemoryAutoencoder`. Defaults to
            ``"memory"``.
        score (str): What R(x) is: ``"mean_error"``, the distance of the whole images (eq. 4 and 7);
            ``"maximum_error"`` or ``"maximum_structure"``, the maximum of the anomaly map, made of squared errors or
            of :class:`StructureMap`; ``"maxima"``, the mean of the maxima of several maps, each standardised: the
            structure of grey values, that of detail where ``downscale`` gives one, and the error where there is an
            ``error_map``. Defaults to ``"mean_error"``.
        comparison_channels (int): Channels of a learned comparison, see :class:`Comparison`, whose maximum takes the
            place of L(x); the anomaly map is then the two maps fused. 0 for none. Defaults to ``0``.
        standardize (bool): Reconstruct every image at the same mean and contrast, see :class:`MemoryAutoencoder`.
            Defaults to ``False``.
        placement_radius (int): Judge every image where it is reconstructed better, within so many pixels, see
            :class:`PlacementSearch`. 0 for as it is. Defaults to ``0``.
        standardize_maps (bool): Judge each pixel of the maps by what good images have there, see
            :class:`MapStandardization`. Defaults to ``False``.
        error_map (bool): Add the error relative to each image's contrast to the anomaly map, standardised as R(x)'s map
            is, with twice its weight; of scores, ``"maxima"`` counts it too. Defaults to ``False``.
        downscale (int): The networks see images so many times smaller than ``image_size``, and their detail, see
            :class:`Downscale`. 1 for images as they are. Defaults to ``1``.

    Raises:
        ValueError: If an argument is out of range, the sizes do not divide or the options exclude each other.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        division_rates: tuple[int, int, int] | None = (8, 8, 1),
        num_items: int = 500,
        adversarial: bool = True,
        gamma: float = 0.9,
        num_scales: int = 4,
        base_channels: int = 64,
        temperature: float = 1.0,
        renormalize: bool = False,
        memory_init: MemoryInit = "normal",
        distance: Distance = "l2",
        map_sigma: float = 4.0,
        drop_below: float = 1.0,
        connections: Connections = "memory",
        score: ScoreKind = "mean_error",
        comparison_channels: int = 0,
        standardize: bool = False,
        placement_radius: int = 0,
        standardize_maps: bool = False,
        error_map: bool = False,
        downscale: int = 1,
    ) -> None:
        super().__init__()
        if score not in get_args(ScoreKind):
            msg = f"score must be one of {get_args(ScoreKind)}, got {score!r}."
            raise ValueError(msg)
        if comparison_channels < 0 or (comparison_channels and (adversarial or score == "mean_error")):
            msg = (
                f"A learned comparison takes L(x)'s place beside a score of maxima: comparison_channels="
                f"{comparison_channels} needs adversarial=False and score='maxima', 'maximum_structure' or "
                "'maximum_error'."
            )
            raise ValueError(msg)
        if standardize_maps and score == "mean_error":
            msg = "Standardised maps need a score of maxima: score='maxima', 'maximum_structure' or 'maximum_error'."
            raise ValueError(msg)
        if score == "maxima" and not standardize_maps:
            msg = "score='maxima' averages over maps, which takes a common unit: set standardize_maps=True."
            raise ValueError(msg)
        if error_map and not standardize_maps:
            msg = "error_map adds two maps, which takes a common unit: set standardize_maps=True."
            raise ValueError(msg)
        if downscale != 1 and adversarial:
            msg = "downscale adds a channel of detail, which the discriminator does not take: set adversarial=False."
            raise ValueError(msg)
        self.image_size = tuple(image_size)
        self.downscale = nn.Identity() if downscale == 1 else Downscale(image_size, downscale)
        check_image_size(image_size, division_rates if connections in WITH_MEMORY else None, num_scales, downscale)
        seen_size = (image_size[0] // downscale, image_size[1] // downscale)
        self.seen_shape = (3 + (downscale != 1), *seen_size)
        self.num_scales = num_scales
        self.distance: Distance = distance
        self.score_kind: ScoreKind = score
        self.score = FusedScore(gamma)
        self.autoencoder = MemoryAutoencoder(
            seen_size,
            division_rates,
            num_items,
            num_scales,
            base_channels,
            temperature,
            renormalize,
            memory_init,
            drop_below,
            connections,
            standardize,
            self.seen_shape[0],
        )
        self.discriminator = Discriminator(image_size, base_channels) if adversarial else None
        self.comparison = Comparison(comparison_channels) if comparison_channels else None
        structure, apart = score in {"maximum_structure", "maxima"}, score == "maxima"
        self.anomaly_map = AnomalyMap(map_sigma, structure, apart)
        self.placement = PlacementSearch(placement_radius) if placement_radius else None
        self.error_map = error_map
        num_maps = 1 + (apart and downscale != 1) + bool(comparison_channels) + error_map
        self.standardization: nn.Module | None = MapStandardization(num_maps, seen_size) if standardize_maps else None

    def forward(self, images: torch.Tensor, targets: torch.Tensor | None = None) -> TrainingOutput | InferenceBatch:
        """Reconstruct and judge images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``; in training as the networks see them,
                which is what ``downscale`` makes of them.
            targets (torch.Tensor | None): In training what to reconstruct, which the discriminator sees as real, same
                shape; None for the images themselves. Defaults to ``None``.

        Returns:
            TrainingOutput | InferenceBatch: In training what the losses need; in evaluation the fused score,
            shape ``(B,)``, and the anomaly map, shape ``(B, 1, H, W)``, without gradient.

        Raises:
            ValueError: If the images do not have the size that the model was built for.
        """
        check_images(images, self.seen_shape if self.training else (3, *self.image_size))
        if self.training:
            reconstructions, reads = self.autoencoder.reconstruct(images)
            if self.comparison is not None:
                defects = self.comparison(images, reconstructions.detach())
                return TrainingOutput(reconstructions, None, None, reads, defects)
            if self.discriminator is None:
                return TrainingOutput(reconstructions, None, None, reads, None)
            real = self.discriminator(images if targets is None else targets)
            return TrainingOutput(reconstructions, real, self.discriminator(reconstructions), reads, None)
        if torch.compiler.is_compiling():
            return self._infer(images)
        with torch.no_grad(), full_precision(images):
            return self._infer(images)

    def _infer(self, images: torch.Tensor) -> InferenceBatch:
        scores, anomaly_map = self._judge(images)
        if anomaly_map.shape[-2:] != images.shape[-2:]:
            anomaly_map = interpolate(anomaly_map, self.image_size, mode="bilinear")
        return flag_not_finite(images, self.score(*scores), anomaly_map)

    def scores(self, images: torch.Tensor) -> Scores:
        """Compute the two parts of the fused score, in full precision also under autocast.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Scores: R(x) and L(x) of each image, not scaled.

        Raises:
            ValueError: If the images do not have the size that the model was built for.
        """
        check_images(images, (3, *self.image_size))
        with full_precision(images):
            return self._judge(images)[0]

    def _judge(self, images: torch.Tensor) -> tuple[Scores, torch.Tensor]:
        """Compute the parts of the score and the anomaly map, of each image where its part belongs."""
        placed = self.in_place(images)
        images, reconstructions = placed.images, placed.restorations
        defects = None if self.comparison is None else self.comparison(images, reconstructions)
        maps = self.maps(images, reconstructions, defects).each(placed.back)
        if self.score_kind == "mean_error":
            reconstruction = sample_distance(images, reconstructions, self.distance)
        else:
            reconstruction = self.strongest(maps)
        anomaly_map = maps.reconstruction.mean(dim=1, keepdim=True)
        if maps.error is not None:
            anomaly_map = anomaly_map + ERROR_WEIGHT * maps.error
        if maps.comparison is not None:
            scores = Scores(reconstruction, maximum(maps.comparison))
            return scores, self.score(anomaly_map, maps.comparison)
        if self.discriminator is None:
            return Scores(reconstruction, None), anomaly_map
        features = self.discriminator.features(torch.cat([images, reconstructions]))
        count = images.shape[0]
        alignment = sample_distance(features[:count], features[count:], self.distance)
        return Scores(reconstruction, alignment), anomaly_map

    def maps(self, images: torch.Tensor, reconstructions: torch.Tensor, defects: torch.Tensor | None) -> Maps:
        """Map how images and reconstructions differ; in training mode good images, whose maps are learnt from.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.
            defects (torch.Tensor | None): What the learned comparison says of them, shape ``(B, 1, H, W)``; None
                without.

        Returns:
            Maps: The maps, blurred, and standardised where that is asked for.
        """
        found = [self.anomaly_map.difference(images, reconstructions)]
        if defects is not None:
            found.append(defects)
        if self.error_map:
            found.append(relative_error(images, reconstructions))
        maps = self.anomaly_map.blur(torch.cat(found, dim=1))  # (B, K, H, W)
        if self.standardization is not None:
            maps = self.standardization(maps)
        reconstruction, *others = maps.split([one.shape[1] for one in found], dim=1)
        return Maps(reconstruction, None if defects is None else others[0], others[-1] if self.error_map else None)

    def strongest(self, maps: Maps) -> torch.Tensor:
        """Score images by the strongest points of their maps.

        Args:
            maps (Maps): Maps of the images.

        Returns:
            torch.Tensor: R(x), where it is one of maxima, shape ``(B,)``.
        """
        if self.score_kind == "maxima" and maps.error is not None:
            return maximum(torch.cat([maps.reconstruction, maps.error], dim=1))
        return maximum(maps.reconstruction)

    def in_place(self, images: torch.Tensor) -> Placed:
        """Move images, as the networks see them, to where they are judged, and reconstruct them there.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Placed: What ``downscale`` makes of them, unmoved unless there is a search and the network knows the place
            of parts.
        """
        images = self.downscale(images)
        if self.placement is None or not self.placement.is_known:
            return Placed(images, self.autoencoder(images))
        return self.placement(images, self.autoencoder)


def check_images(images: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Refuse images of another size.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        shape (tuple[int, ...]): Channels, height and width that a model was built for.

    Raises:
        ValueError: If the images do not have that size.
    """
    if tuple(images.shape[1:]) != shape:
        msg = (
            f"The model was built for images of shape (B, {shape[0]}, {shape[1]}, {shape[2]}), got "
            f"{tuple(images.shape)}; set image_size, or let the pre-processor resize to it."
        )
        raise ValueError(msg)

# SPDX-License-Identifier: Apache-2.0

"""The recommended detector as a plain PyTorch module: place, restore, map, score.

Example:
    >>> import torch
    >>> network = RestorationModel((128, 128), downscale=4, base_channels=8, placement_radius=2).eval()
    >>> batch = network(torch.rand(2, 3, 128, 128) * 2 - 1)
    >>> batch.pred_score.shape, batch.anomaly_map.shape
    (torch.Size([2]), torch.Size([2, 1, 128, 128]))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from anomalib_daad.components.autoencoder import MemoryAutoencoder, memory_of
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.gaussian_blur import GaussianBlur
from anomalib_daad.components.image_size import count_scales, refuse_image_size
from anomalib_daad.components.network import AnomalyNetwork, Explanation, Judgement, Wording
from anomalib_daad.components.precision import full_precision

from .comparison import Comparison
from .detail import COLOURS, Detail
from .difference_maps import LEAST_DEVIATIONS, Maps, StructureMaps, colour_error, relative_error
from .light import Light, light
from .map_standardization import MapStandardization, SettledStandardization
from .movement import move, turn
from .placement import Placed, PlacementSearch
from .template_registration import TemplateRegistration
from .tiles import Tiling, join_reads, refuse_tile_size

GAMMA = 0.5
NUM_ITEMS = 500
DOWNSCALES = (2, 4, 8)
UNIT = 16  # pixels that the networks' image is a multiple of: the down-sampling of their autoencoder
BLUR = 0.75 / 64  # of the maps, as a share of the shorter side of the networks' image
SEARCH_RADIUS = 2  # pixels: each costs a search three restorations
REACH = 0.1  # of a registration, which costs none, as a share of the shorter side of the networks' image
FOLDS = 10  # of good images, whose scores are taken by the maps of the others


class Restored(NamedTuple):
    """Images, as the networks see them, and what the networks make of them in training.

    Attributes:
        restorations (torch.Tensor): Shape ``(B, 4, h, w)``, colours about in [-1, 1], and detail.
        light (Light): Light of the images, which the restorations have too.
        defects (torch.Tensor): What the learned comparison says, logits, shape ``(B, 1, h, w)``.
    """

    restorations: torch.Tensor
    light: Light
    defects: torch.Tensor


class RestorationModel(AnomalyNetwork):
    """Restores images from memory, compares them with their restorations, and scores the strongest differences.

    Args:
        image_size (tuple[int, int]): Height and width of the images, multiples of 16 times ``downscale``.
        downscale (int): The networks see images so many times smaller, 2, 4 or 8, and how much detail that took away,
            see :class:`Detail`.
        base_channels (int): Channels of the autoencoder's finest scale.
        placement_radius (int | None): Each image is judged where its part belongs, within so many pixels of what the
            networks see, if training images have a place of their own, see :class:`TemplateRegistration` and
            :class:`PlacementSearch`, which goes no farther than two; None for a tenth of what the networks see, 0 for
            as it is.
        tile_size (int | None): Height and width of the tiles that the networks see of an image, in its pixels, a
            multiple of 16 times ``downscale``, see :class:`Tiling`; None for the whole image at once.

    Raises:
        ValueError: If an argument is out of range or the size does not fit.
    """

    wording = Wording(
        reconstruction=(
            "the mean of the strongest differences of image and restoration in structure, detail and error, and in "
            "colour where it was trained with that"
        ),
        alignment="the strongest point of their learned comparison",
        anomaly_map=(
            "the differences in structure, error and, likewise, colour, and what the learned comparison says, each in "
            "units of what good images have at that place"
        ),
        made="restored",
    )

    def __init__(
        self,
        image_size: tuple[int, int],
        downscale: int,
        base_channels: int,
        placement_radius: int | None = None,
        tile_size: int | None = None,
    ) -> None:
        super().__init__(image_size, GAMMA)
        if type(downscale) is not int or downscale not in DOWNSCALES:
            msg = f"downscale must be one of {DOWNSCALES}, got {downscale}: the networks see images so many times "
            msg += "smaller than image_size; 4 suits images of 256 px, 2 those whose defects are a pixel or two wide."
            raise ValueError(msg)
        unit = UNIT * downscale
        refuse_image_size(self.image_size, lambda _: (unit, unit), f"{UNIT} times downscale {downscale}")
        tile = self.image_size
        if tile_size is not None:
            refuse_tile_size(tile_size, self.image_size, unit, f"{UNIT} times downscale {downscale}")
            if placement_radius:
                msg = (
                    f"placement_radius {placement_radius} moves a part to its place, which a tile does not have: leave "
                )
                msg += f"it out, or else tile_size {tile_size}."
                raise ValueError(msg)
            tile = (tile_size, tile_size)
        self.tiling = Tiling(self.image_size, tile, unit)
        height, width = tile[0] // downscale, tile[1] // downscale
        self.downscale = downscale
        self.num_scales = count_scales((height, width))
        rates = (height >> self.num_scales, width >> self.num_scales, 1)  # each pixel of the bottleneck is a block
        self.detail = Detail(tile, downscale)
        self.autoencoder = MemoryAutoencoder(
            (height, width),
            rates,
            memory_of(NUM_ITEMS),
            base_channels,
            in_channels=COLOURS + 1,
            activation=False,
        )
        self.comparison = Comparison(self.num_scales)
        self.structure = StructureMaps()
        self.blur = GaussianBlur(BLUR * min(height, width))
        radius = round(REACH * min(height, width)) if placement_radius is None else placement_radius
        if type(radius) is not int or radius < 0:
            msg = f"placement_radius must be a whole number of pixels, 0 for as images are, or None, got {radius}."
            raise ValueError(msg)
        radius = radius if tile_size is None else 0
        self.registration = TemplateRegistration((height, width), radius) if radius else None
        self.placement = PlacementSearch(min(SEARCH_RADIUS, radius)) if radius else None
        self.standardization: Any = MapStandardization(LEAST_DEVIATIONS, (height, width))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickle, also one of a version without registration or tiles."""
        super().__setstate__(state)
        self._modules.setdefault("registration", None)
        if "tiling" not in self._modules:
            self.tiling = Tiling(self.image_size, self.image_size, UNIT * self.downscale)

    def take_maps(self, count: int) -> None:
        """Judge by so many maps, and forget what is usual in them if they were others.

        Args:
            count (int): Five, or four of a model that was trained before colour had a map of its own.
        """
        old = self.standardization
        if count != old.num_maps and count in {len(LEAST_DEVIATIONS) - 1, len(LEAST_DEVIATIONS)}:
            new = MapStandardization(LEAST_DEVIATIONS[:count], old.running_mean.shape[2:])
            self.standardization = new.to(old.running_mean).train(old.training)

    def reconstruct_for_losses(self, images: torch.Tensor) -> Restored:
        """Restore images and compare them, as training does with corrupted ones."""
        return self.restore_and_compare(self.detail(images))

    def restore_and_compare(self, seen: torch.Tensor) -> Restored:
        """Restore images and compare them, which does not train the autoencoder.

        Args:
            seen (torch.Tensor): Images as the networks see them, shape ``(B, 4, h, w)``.

        Returns:
            Restored: Restorations, and what the comparison says.
        """
        restorations, own = self._restore(seen)
        return Restored(restorations, own, self.comparison(seen, restorations.detach()))

    def restore(self, seen: torch.Tensor) -> torch.Tensor:
        """Restore images at equal light, and give them their own light back.

        Args:
            seen (torch.Tensor): Images as the networks see them, shape ``(B, 4, h, w)``.

        Returns:
            torch.Tensor: Restorations, same shape.
        """
        return self._restore(seen)[0]

    def _restore(self, seen: torch.Tensor) -> tuple[torch.Tensor, Light]:
        own = light(seen.float())
        return own.give(self.autoencoder(own.take(seen))), own

    def place(self, images: torch.Tensor) -> Placed:
        """Move and turn images to where they are judged, and restore them there.

        Args:
            images (torch.Tensor): Images, or tiles of them, in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Placed: Images as the networks see them, unmoved unless parts have a place. What lies beyond the borders
            of a registered image is seen as training images have it there on average.
        """
        seen = self.detail(images)
        if self.registration is not None and self.registration.is_known:
            own = light(seen)
            rows, columns, degrees = self.registration(own.take(seen))
            ground = own.give(self.registration.template)
            placed = turn(move(seen, rows, columns, turn(ground, -degrees)), degrees, ground)
            return Placed(placed, self.restore(placed), rows, columns, degrees)
        if self.placement is not None and self.placement.is_known:
            return self.placement(seen, self.restore)
        return Placed(seen, self.restore(seen))

    def maps(self, seen: torch.Tensor, restorations: torch.Tensor, defects: torch.Tensor) -> torch.Tensor:
        """Map how images and restorations differ; in training mode good images, whose maps are learnt from.

        Args:
            seen (torch.Tensor): Images as the networks see them, shape ``(B, 4, h, w)``.
            restorations (torch.Tensor): Their restorations, same shape.
            defects (torch.Tensor): What the learned comparison says of them, shape ``(B, 1, h, w)``.

        Returns:
            torch.Tensor: The maps, blurred and standardised, shape ``(B, K, h, w)``, in the order of :class:`Maps`.
        """
        return self.standardization(self._differences(seen, restorations, defects))

    def _differences(self, seen: torch.Tensor, restorations: torch.Tensor, defects: torch.Tensor) -> torch.Tensor:
        found = [self.structure(seen, restorations), defects, relative_error(seen, restorations)]
        if self.standardization.num_maps == len(Maps._fields):
            found.append(colour_error(seen, restorations))
        return self.blur(torch.cat(found, dim=1))

    def observe(self, images: torch.Tensor) -> torch.Tensor:
        """Map the differences of good images, each where its part belongs, before they are standardised.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: Shape ``(B, K, h, w)``; the tiles of each image side by side, where it has several.
        """
        self.check(images)
        with full_precision(images):
            return self._of_tiles(self.cover(images), self._observe)

    def _observe(self, tiles: torch.Tensor) -> torch.Tensor:
        placed = self.place(tiles)
        return self._differences(placed.images, placed.restorations, self._compare(placed))

    def _of_tiles(self, images: torch.Tensor, make: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Lay side by side what is made of the tiles of images."""
        return self.tiling.lay_out(torch.cat([make(tiles) for tiles in self.tiling.cut(images)]))

    @torch.no_grad()
    def relearn(self, observed: torch.Tensor) -> None:
        """Take what maps are standardised by, and the ranges of the scores, from good images.

        Each image's scores, for the ranges, are standardised by the maps of others: its own would make them smaller.
        Where parts lie is not learnt anew: the networks know them where they were trained, and register at equal light.
        """
        fold = torch.arange(len(observed), device=observed.device) % FOLDS
        found = []
        for number in fold.unique():
            self.learn_usual(observed[fold != number])
            found.append(self.score_observed(observed[fold == number]))
        self.score.calibrate(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        self.learn_usual(observed)

    def learn_usual(self, observed: torch.Tensor) -> None:
        """Forget what maps are standardised by, and learn it from what :meth:`observe` told of good images.

        Args:
            observed (torch.Tensor): Of all images at once, two at least.
        """
        self.standardization.learn_anew(self.tiling.take_apart(observed))

    def score_observed(self, observed: torch.Tensor) -> Scores:
        """Score images by what :meth:`observe` told of them.

        Args:
            observed (torch.Tensor): Of n images.

        Returns:
            Scores: Of each, not scaled, shape ``(n,)``.
        """
        maps = self.tiling.lay_out(self.standardization(self.tiling.take_apart(observed)))
        return Maps(*self.tiling.join(maps).split(1, dim=1)).scores()

    def _compare(self, placed: Placed) -> torch.Tensor:
        return self.comparison(placed.images, placed.restorations)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Score images by the strongest differences, each image where its part belongs, and map them."""
        maps = Maps(*self.tiling.join(self._of_tiles(images, self._judge)).split(1, dim=1))
        return Judgement(maps.scores(), self.score(maps.differences(), maps.comparison))

    def _judge(self, tiles: torch.Tensor) -> torch.Tensor:
        placed = self.place(tiles)
        return placed.back(self.maps(placed.images, placed.restorations, self._compare(placed)))

    def explain(self, images: torch.Tensor) -> Explanation:
        """Show images and restorations, without detail, at the place that images have."""
        pairs, reads = [], []
        for tiles in self.tiling.cut(self.cover(images)):
            placed = self.place(tiles)
            expected = placed.back(placed.restorations)
            pairs.append(torch.cat([self.detail(tiles)[:, :COLOURS], expected[:, :COLOURS]], dim=1))
            reads.append(self.autoencoder.reconstruct(light(placed.images.float()).take(placed.images)).reads)
        seen, expected = self.tiling.join(self.tiling.lay_out(torch.cat(pairs))).split(COLOURS, dim=1)
        return Explanation(seen, expected, [join_reads(self.tiling, list(parts)) for parts in zip(*reads, strict=True)])

    def settle(self) -> None:
        """Fix what maps are standardised by, and whether parts have a place: a graph cannot depend on it."""
        if isinstance(self.standardization, MapStandardization):
            self.standardization = SettledStandardization(self.standardization.usual())
        is_registered = self.registration is not None and self.registration.is_known
        is_searched = not is_registered and self.placement is not None and self.placement.is_known
        self.registration = self.registration if is_registered else None
        self.placement = self.placement if is_searched else None
        for way in (self.registration, self.placement):
            if way is not None:
                way.is_settled = True

# SPDX-License-Identifier: Apache-2.0

"""Large images in overlapping tiles: one size of network, one map of the whole, a cost in proportion to the pixels.

Tiles lie on the grid of the networks' blocks, the last of each row and column ends at the image's border, and
neighbours share a quarter of a tile. In the middle of what they share one tile fades into the other. What lies nearer
to a tile's border, where convolutions know nothing of what follows, is not used.

anomalib's ``Tiler`` does not serve: it pads images with zeros, averages tiles up to their borders, and holds a batch's
size.

Example:
    >>> import torch
    >>> tiling = Tiling((448, 256), (256, 256), unit=64)
    >>> images = torch.rand(2, 3, 448, 256)
    >>> tiles = torch.cat([*tiling.cut(images)])  # two of each image
    >>> tiles.shape, torch.equal(tiling.join(tiling.lay_out(tiles)), images)
    (torch.Size([4, 3, 256, 256]), True)
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from anomalib_daad.components.block_memory import MemoryRead

OVERLAP = 4  # a tile shares so much less than itself with its neighbour, at least a unit
FADING = 2  # one tile fades into the next over so much less than they share: the rest keeps away from borders
LEAST = 2  # units of a tile: neighbours share one
AT_ONCE = 32  # tiles that go through the networks together: what memory they take does not depend on the image
BEYOND = 4  # crops may start a quarter of a tile beyond the image and are pushed back: borders are judged as often


class _Axis(NamedTuple):
    """Tiles along one axis.

    Attributes:
        starts (tuple[int, ...]): Where each tile starts, in units, in ascending order.
        length (int): Of the image, in units.
        tile (int): Length of a tile, in units.
    """

    starts: tuple[int, ...]
    length: int
    tile: int

    @property
    def seams(self) -> list[float]:
        """Middle of what each two neighbours share, in units."""
        return [(right + left + self.tile) / 2 for left, right in zip(self.starts, self.starts[1:], strict=False)]

    @property
    def shared(self) -> int:
        """Units that neighbours share at least."""
        return max(1, self.tile // OVERLAP)


def _spread(length: int, tile: int) -> _Axis:
    """Spread as few tiles as share enough evenly over an axis, all in units."""
    step = tile - max(1, tile // OVERLAP)
    last = length - tile
    count = 1 if last == 0 else 1 + -(-last // step)
    return _Axis(tuple(round(last * number / max(1, count - 1)) for number in range(count)), length, tile)


class Tiling(nn.Module):
    """Cuts images into tiles and joins what was made of them.

    Args:
        size (tuple[int, int]): Height and width of the images.
        tile (tuple[int, int]): Height and width of a tile, at most those of the images, and at least two units where
            it is less than they are.
        unit (int): Pixels that are a multiple of: what the networks divide images into; divides size and tile.

    Attributes:
        count (int): Tiles of an image, n; 1 where the tile is the image.
    """

    def __init__(self, size: tuple[int, int], tile: tuple[int, int], unit: int) -> None:
        super().__init__()
        self.tile, self.unit = tile, unit
        self.rows, self.columns = (_spread(a // unit, b // unit) for a, b in zip(size, tile, strict=True))
        self.grid = (len(self.rows.starts), len(self.columns.starts))
        self.count = self.grid[0] * self.grid[1]

    def cut(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut images, a bounded number of tiles at a time.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.

        Yields:
            torch.Tensor: The first few tiles of all images, shape ``(k B, C, h, w)``, then the next; row by row.
        """
        if self.count == 1:
            yield images
            return
        height, width = self.tile
        places = [(row * self.unit, column * self.unit) for row in self.rows.starts for column in self.columns.starts]
        batch = images.shape[0]
        step = max(1, AT_ONCE // max(1, batch)) if isinstance(batch, int) else AT_ONCE  # an export knows no batch size
        for start in range(0, self.count, step):
            part = places[start : start + step]
            yield torch.cat([images[:, :, top : top + height, left : left + width] for top, left in part])

    def lay_out(self, tiles: torch.Tensor) -> torch.Tensor:
        """Lay what was made of all tiles side by side.

        Args:
            tiles (torch.Tensor): In the order of :meth:`cut`, shape ``(n B, C, h, w)``, of any size.

        Returns:
            torch.Tensor: Shape ``(B, C, rows h, columns w)``, for as many rows and columns of tiles.
        """
        if self.count == 1:
            return tiles
        grid = tiles.unflatten(0, (*self.grid, tiles.shape[0] // self.count))  # (rows, columns, B, C, h, w)
        return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)

    def take_apart(self, laid_out: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`lay_out`.

        Args:
            laid_out (torch.Tensor): Shape ``(B, C, rows h, columns w)``.

        Returns:
            torch.Tensor: Shape ``(n B, C, h, w)``.
        """
        if self.count == 1:
            return laid_out
        grid = laid_out.unflatten(3, (self.grid[1], -1)).unflatten(2, (self.grid[0], -1))  # (B, C, rows, h, columns, w)
        return grid.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)

    def join(self, laid_out: torch.Tensor) -> torch.Tensor:
        """Join tiles that lie side by side: in the middle of what neighbours share one fades into the other.

        Args:
            laid_out (torch.Tensor): Shape ``(B, C, rows h, columns w)``.

        Returns:
            torch.Tensor: What they are tiles of, shape ``(B, C, H, W)``.
        """
        for axis, dim in ((self.rows, 2), (self.columns, 3)):
            if len(axis.starts) > 1:
                first, last, share = _fading(axis, laid_out.shape[dim])
                one, other = (laid_out.index_select(dim, _indices(it, laid_out)) for it in (first, last))
                weights = torch.tensor(share, dtype=one.dtype, device=one.device)
                laid_out = one + weights.view(-1, *[1] * (3 - dim)) * (other - one)
        return laid_out

    def pick(self, laid_out: torch.Tensor) -> torch.Tensor:
        """Take each pixel from the tile whose middle is nearest, of tiles that lie side by side.

        Args:
            laid_out (torch.Tensor): Shape ``(B, C, rows h, columns w)``.

        Returns:
            torch.Tensor: What they are tiles of, shape ``(B, C, H, W)``.
        """
        for axis, dim in ((self.rows, 2), (self.columns, 3)):
            if len(axis.starts) > 1:
                places = zip(*_fading(axis, laid_out.shape[dim]), strict=True)
                nearest = [one if share < 0.5 else other for one, other, share in places]
                laid_out = laid_out.index_select(dim, _indices(nearest, laid_out))
        return laid_out


def _indices(places: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(places, device=like.device)


@cache
def _fading(axis: _Axis, laid_out: int) -> tuple[list[int], list[int], list[float]]:
    """Of each pixel, of tiles of so many in all: where its first and its last tile have it, and the last's share."""
    scale = laid_out // (len(axis.starts) * axis.tile)  # pixels of a unit
    first, last, share = [], [], []
    for place in range(axis.length * scale):
        middle = (place + 0.5) / scale
        risen = [min(1.0, max(0.0, (middle - seam) * FADING / axis.shared + 0.5)) for seam in axis.seams]
        numbers = (sum(it == 1 for it in risen), sum(it > 0 for it in risen))  # at most one is between 0 and 1
        here, there = (number * axis.tile * scale + place - axis.starts[number] * scale for number in numbers)
        first.append(here)
        last.append(there)
        share.append(sum(risen) - numbers[0])
    return first, last, share


def join_reads(tiling: Tiling, reads: list[MemoryRead]) -> MemoryRead:
    """Join what one memory did for the tiles: each block of the image is that of the tile whose middle is nearest.

    Args:
        tiling (Tiling): Tiling.
        reads (list[MemoryRead]): What it did for each part of the tiles, in the order of :meth:`Tiling.cut`.

    Returns:
        MemoryRead: What it did for the images.
    """
    if tiling.count == 1:
        return reads[0]
    rows, columns, groups = reads[0].grid

    def blocks(values: torch.Tensor) -> torch.Tensor:
        """From ``(n B, Q, D)`` to those of whole images."""
        grid = values.unflatten(1, (rows, columns, groups)).permute(0, 3, 4, 1, 2)  # (n B, groups, D, rows, columns)
        whole = tiling.pick(tiling.lay_out(grid.flatten(1, 2))).unflatten(1, (groups, -1))
        return whole.permute(0, 3, 4, 1, 2).flatten(1, 3)

    return MemoryRead(
        tiling.pick(tiling.lay_out(torch.cat([read.features for read in reads]))),
        blocks(torch.cat([read.queries for read in reads])),
        reads[0].items,
        blocks(torch.cat([read.weights for read in reads])),
        (rows * tiling.rows.length // tiling.rows.tile, columns * tiling.columns.length // tiling.columns.tile, groups),
    )


def random_crops(images: torch.Tensor, side: int) -> torch.Tensor:
    """Cut one tile of each image at random.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        side (int): Height and width of a tile, at most those of the images.

    Returns:
        torch.Tensor: Shape ``(B, C, side, side)``.
    """
    beyond = side // BEYOND
    limits = [length - side for length in images.shape[2:]]
    drawn = [torch.randint(-beyond, limit + beyond + 1, (len(images),)).clamp(0, limit).tolist() for limit in limits]
    places: Any = zip(images, *drawn, strict=True)
    return torch.stack([image[:, top : top + side, left : left + side] for image, top, left in places])


def refuse_tile_size(tile_size: int, image_size: tuple[int, int], unit: int, reason: str) -> None:
    """Refuse tiles that networks or images do not take.

    Args:
        tile_size (int): Height and width of a tile.
        image_size (tuple[int, int]): Height and width of the images.
        unit (int): Pixels that a tile is a multiple of.
        reason (str): Where the unit comes from.

    Raises:
        ValueError: If it is no multiple, or less than two of them, or more than the images have.
    """
    least = LEAST * unit
    if type(tile_size) is int and least <= tile_size <= min(image_size) and tile_size % unit == 0:
        return
    msg = f"tile_size must be a multiple of {unit}, which is {reason}, from {least} to the shorter side of image_size "
    msg += f"{image_size[0]}x{image_size[1]}, or None for the whole image; got {tile_size!r}."
    raise ValueError(msg)

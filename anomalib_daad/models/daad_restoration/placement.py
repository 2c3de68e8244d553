# SPDX-License-Identifier: Apache-2.0

"""Where a part lies: images are moved to where the network restores them better before they are judged.

A network that restores parts which always lie alike learns their place by heart, and a good part that lies a hundredth
of the image elsewhere looks defective to it. What it knows by heart is used here: of small movements, the one with
the smallest error puts the part where training images had it. Textures have no place to be found, and would only lose
defects at their borders; whether there is one is measured on training images.

Example:
    >>> import torch
    >>> search = PlacementSearch(radius=1)
    >>> search(torch.rand(2, 3, 64, 64), lambda images: 0.9 * images).images.shape
    torch.Size([2, 3, 64, 64])
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from .movement import move, turn

NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_TRIED = 3  # movements in each step of a search
_RIDGE = 5e-4  # share of all steepness that is added to that of each direction, for parts of one direction alone
KNOWN = 2.0  # times that the error grows by one pixel of movement, from which the place of parts counts as known

Restore = Callable[[torch.Tensor], torch.Tensor]


class Placed(NamedTuple):
    """Images where their parts belong.

    Attributes:
        images (torch.Tensor): Moved images, shape ``(B, C, H, W)``.
        restorations (torch.Tensor): What the network makes of them, same shape.
        rows (torch.Tensor | None): Pixels that each was moved down, shape ``(B,)``; None where all stay.
        columns (torch.Tensor | None): Pixels that each was moved to the right, shape ``(B,)``; None likewise.
        degrees (torch.Tensor | None): Degrees that each was turned by after that, counter-clockwise, shape ``(B,)``;
            None where none was.
    """

    images: torch.Tensor
    restorations: torch.Tensor
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    degrees: torch.Tensor | None = None

    def back(self, maps: torch.Tensor) -> torch.Tensor:
        """Move and turn what was made of the moved images to where the images were.

        Args:
            maps (torch.Tensor): Maps or images, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: The same, moved back.
        """
        if self.rows is None or self.columns is None:
            return maps
        if self.degrees is not None:
            maps = turn(maps, -self.degrees)
        return move(maps, -self.rows, -self.columns)


class PlacementSearch(nn.Module):
    """Search, pixel by pixel, for a movement of each image with which it is restored with a smaller squared error.

    A network that knows the place of a part restores it a little nearer to there. Each step measures to which side,
    and tries the three movements by a pixel to that side, along rows, columns and both; 7 restorations for a radius of
    two, where all neighbours of all steps would be 14.

    Args:
        radius (int): Steps, and the largest movement in rows and in columns, in pixels, at least 1.

    Attributes:
        is_settled (bool): The place is known for good, as in an export, whose graph cannot depend on it.
        growth (torch.Tensor): How many times larger the error of training images is when they are moved by one pixel,
            a scalar; NaN before calibration. Below :data:`KNOWN`, and before calibration, nothing is moved.

    Raises:
        ValueError: If the radius is less than 1.
    """

    def __init__(self, radius: int) -> None:
        super().__init__()
        if type(radius) is not int or radius < 1:
            msg = f"placement_radius must be a whole number, at least 1, or 0 for no search, got {radius}."
            raise ValueError(msg)
        self.radius = radius
        self.is_settled = False
        self.growth: torch.Tensor
        self.register_buffer("growth", torch.tensor(torch.nan))

    @property
    def is_known(self) -> bool:
        """Whether the network knows the place of parts."""
        return self.is_settled or bool(self.growth >= KNOWN)

    def forward(self, images: torch.Tensor, restore: Restore) -> Placed:
        """Move each image to the best of the places that are tried.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.
            restore (Restore): Restores images of that shape, of any number.

        Returns:
            Placed: The moved images, and how they are restored.
        """
        placed, restorations = images, restore(images)
        errors = _errors(placed, restorations)  # (B,)
        rows = columns = none = torch.zeros_like(errors, dtype=torch.long)
        firsts = torch.arange(images.shape[0], device=images.device) * _TRIED
        for _ in range(self.radius):
            down, right = _towards(restorations, placed)
            tried_rows = (rows + torch.stack([down, none, down])).T.flatten()  # (B 3,)
            tried_columns = (columns + torch.stack([none, right, right])).T.flatten()
            tried = move(images.repeat_interleave(_TRIED, dim=0), tried_rows, tried_columns)  # (B 3, 3, H, W)
            restored = restore(tried)
            smallest, which = _errors(tried, restored).view(-1, _TRIED).min(dim=1)
            best, is_better = firsts + which, smallest < errors  # where errors are equal, nothing moves
            placed = _choose(is_better, tried[best], placed)
            restorations = _choose(is_better, restored[best], restorations)
            rows = _choose(is_better, tried_rows[best], rows)
            columns = _choose(is_better, tried_columns[best], columns)
            errors = _choose(is_better, smallest, errors)
        return Placed(placed, restorations, rows, columns)

    @torch.no_grad()
    def measure_growth(self, images: torch.Tensor, restore: Restore) -> torch.Tensor:
        """Measure how much the error of training images grows when they are moved by one pixel.

        Args:
            images (torch.Tensor): Good images that the network was trained on, shape ``(B, C, H, W)``.
            restore (Restore): Restores images of that shape, of any number.

        Returns:
            torch.Tensor: Mean error of the eight movements, divided by the error of the image itself, shape ``(B,)``.
        """
        rows, columns = torch.tensor(NEIGHBOURS, device=images.device).repeat(len(images), 1).unbind(dim=1)
        moved = move(images.repeat_interleave(len(NEIGHBOURS), dim=0), rows, columns)  # (B 8, 3, H, W)
        errors = _errors(moved, restore(moved)).view(-1, len(NEIGHBOURS))
        return errors.mean(dim=1) / _errors(images, restore(images)).clamp_min(1e-12)


def _towards(restorations: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell the side on which restorations show parts: down of where images do or up, and right or left.

    1 or -1 of each image, shape ``(B,)``.

    Least squares over all pixels, as Lucas and Kanade register images, of which the signs alone are used: how far is
    not known, since restorations follow a part most of the way.
    """
    middle = images + restorations
    downwards = (middle[:, :, 2:] - middle[:, :, :-2])[..., 1:-1]
    rightwards = (middle[..., 2:] - middle[..., :-2])[:, :, 1:-1]
    difference = (images - restorations)[:, :, 1:-1, 1:-1]

    def sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(dim=(1, 2, 3))

    rows, both, columns = sums(downwards, downwards), sums(downwards, rightwards), sums(rightwards, rightwards)
    below, beside = sums(downwards, difference), sums(rightwards, difference)
    ridge = _RIDGE * (rows + columns)
    down = (columns + ridge) * below - both * beside
    right = (rows + ridge) * beside - both * below
    one = torch.ones_like(down, dtype=torch.long)
    return torch.where(down < 0, -one, one), torch.where(right < 0, -one, one)


def _choose(is_better: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Take the new of each image where it is better, the old elsewhere."""
    return torch.where(is_better.view(-1, *[1] * (new.ndim - 1)), new, old)


def _errors(images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
    """Squared error of each image, shape ``(B,)``."""
    return (images - restorations).square().mean(dim=(1, 2, 3))

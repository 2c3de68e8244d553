# SPDX-License-Identifier: Apache-2.0

"""Where a part lies: images are moved to where the network restores them best before they are judged.

A network that restores parts which always lie alike learns their place by heart, and a good part that lies a hundredth
of the image elsewhere looks defective to it. What it knows by heart is used here: of all small movements, the one with
the smallest error puts the part where training images had it. Textures have no place to be found, and would only lose
defects at their borders; whether there is one is measured on training images.

Example:
    >>> import torch
    >>> images = torch.rand(2, 3, 64, 64)
    >>> moved = move(images, torch.tensor([1, 0]), torch.tensor([0, -2]))
    >>> torch.equal(moved[0, :, 1:], images[0, :, :-1]), torch.equal(moved[1, :, :, :-2], images[1, :, :, 2:])
    (True, True)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

# The place of the image itself first: where errors are equal, nothing moves.
_NEIGHBOURS = ((0, 0), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_AHEAD = 5  # neighbours that a step to a corner leads to, of which it is not known yet how well they are restored
KNOWN = 2.0  # times that the error grows by one pixel of movement, from which the place of parts counts as known

Restore = Callable[[torch.Tensor], torch.Tensor]


class Placed(NamedTuple):
    """Images where their parts belong.

    Attributes:
        images (torch.Tensor): Moved images, shape ``(B, 3, H, W)``.
        rows (torch.Tensor | None): Pixels that each was moved down, shape ``(B,)``; None where there is no search.
        columns (torch.Tensor | None): Pixels that each was moved to the right, shape ``(B,)``; None likewise.
    """

    images: torch.Tensor
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def back(self, maps: torch.Tensor) -> torch.Tensor:
        """Move what was made of the moved images to where the images were.

        Args:
            maps (torch.Tensor): Maps or images, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: The same, moved back.
        """
        return maps if self.rows is None or self.columns is None else move(maps, -self.rows, -self.columns)


class PlacementSearch(nn.Module):
    """Search, pixel by pixel, for the movement of each image that is restored with the smallest squared error.

    The first step tries the eight neighbours of the image's own place, every further one those neighbours of the best
    place so far that were not tried yet, five at most: 9 and 5 restorations for a radius of two.

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
        if radius < 1:
            msg = f"placement_radius must be at least 1, or 0 for no search, got {radius}."
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
        """Move each image to where it is restored best.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            restore (Restore): Restores images of that shape, of any number.

        Returns:
            Placed: The moved images.
        """
        ahead = [[_ahead(row, column) for column in (-1, 0, 1)] for row in (-1, 0, 1)]
        steps_ahead = torch.tensor(ahead, device=images.device)  # (3, 3, 5, 2)
        steps = torch.tensor(_NEIGHBOURS, device=images.device).expand(images.shape[0], -1, -1)  # (B, 9, 2)
        errors = _errors(images, steps, restore)  # (B, 9)
        place = step = _take(steps, errors)  # (B, 2)
        for _ in range(self.radius - 1):
            steps = steps_ahead[step[:, 0] + 1, step[:, 1] + 1]  # (B, 5, 2)
            new = _errors(images, place[:, None] + steps, restore)  # (B, 5)
            errors = torch.cat([errors.amin(dim=1, keepdim=True), new], dim=1)
            step = _take(torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1), errors)
            place = place + step
        rows, columns = place.unbind(dim=1)
        return Placed(move(images, rows, columns), rows, columns)

    @torch.no_grad()
    def measure_growth(self, images: torch.Tensor, restore: Restore) -> torch.Tensor:
        """Measure how much the error of training images grows when they are moved by one pixel.

        Args:
            images (torch.Tensor): Good images that the network was trained on, shape ``(B, 3, H, W)``.
            restore (Restore): Restores images of that shape, of any number.

        Returns:
            torch.Tensor: Mean error of the eight movements, divided by the error of the image itself, shape ``(B,)``.
        """
        places = torch.tensor(_NEIGHBOURS, device=images.device).expand(images.shape[0], -1, -1)
        errors = _errors(images, places, restore)  # (B, 9)
        return errors[:, 1:].mean(dim=1) / errors[:, 0].clamp_min(1e-12)


def _ahead(row: int, column: int) -> list[tuple[int, int]]:
    """Neighbours of a place that are not neighbours of where the step to it began; the place itself fills them up."""
    new = [(down, right) for down, right in _NEIGHBOURS if max(abs(down + row), abs(right + column)) > 1]
    return new + [(0, 0)] * (_AHEAD - len(new))


def _take(steps: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """Step of each image with the smallest error, the first of equal ones, shape ``(B, 2)``."""
    best = errors.argmin(dim=1)[:, None, None].expand(-1, -1, 2)
    return steps.gather(1, best).squeeze(1)


def _errors(images: torch.Tensor, places: torch.Tensor, restore: Restore) -> torch.Tensor:
    """Squared errors of images moved to places, which are rows and columns, shape ``(B, K, 2)``; ``(B, K)``."""
    count = places.shape[1]
    rows, columns = places.flatten(0, 1).unbind(dim=1)
    candidates = move(images.repeat_interleave(count, dim=0), rows, columns)  # (B K, 3, H, W)
    return (candidates - restore(candidates)).square().mean(dim=(1, 2, 3)).reshape(-1, count)


def move(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Move each image down and to the right by whole pixels, with its borders repeated.

    Args:
        images (torch.Tensor): Images or maps, shape ``(B, C, H, W)``.
        rows (torch.Tensor): Pixels down, shape ``(B,)``, integers.
        columns (torch.Tensor): Pixels to the right, shape ``(B,)``, integers.

    Returns:
        torch.Tensor: Moved images, same shape.
    """
    _, channels, height, width = images.shape
    from_rows = (torch.arange(height, device=images.device) - rows[:, None]).clamp(0, height - 1)  # (B, H)
    from_columns = (torch.arange(width, device=images.device) - columns[:, None]).clamp(0, width - 1)  # (B, W)
    moved = images.gather(2, from_rows[:, None, :, None].expand(-1, channels, -1, width))
    return moved.gather(3, from_columns[:, None, None, :].expand(-1, channels, height, -1))

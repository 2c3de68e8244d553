# SPDX-License-Identifier: Apache-2.0

"""Where a part lies, by the mean of the training images: of all movements, the one that makes an image most like it.

Parts that always lie alike have a mean that looks like each of them. An image is moved, and turned by up to four
degrees, to where it differs least from that mean, with each place weighed by how little training images vary there.
All movements are tried at once, as a correlation in the frequency domain, which costs less than one restoration does.
Textures, and parts that lie turned in all directions, have a mean that looks like none of them: whether it serves is
measured on training images.

Example:
    >>> import torch
    >>> part = torch.rand(1, 4, 32, 32).repeat(8, 1, 1, 1) - 0.5
    >>> registration = TemplateRegistration((32, 32), radius=3)
    >>> registration.learn(part)
    >>> registration.is_known
    True
    >>> from anomalib_daad.models.daad_restoration.movement import move
    >>> registration(move(part[:1], torch.tensor([2]), torch.tensor([-1])))
    Movement(rows=tensor([-2]), columns=tensor([1]), degrees=tensor([0.]))
"""

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from .detail import COLOURS
from .movement import move, turn
from .placement import NEIGHBOURS

RECALL = 0.95  # share of training images that must be brought back
LIKENESS = 0.5  # share of what training images show that their mean must show
_TRIED = 3  # pixels that training images are moved by to be brought back
_TOLERANCE = 1  # pixel
TURNS = (0.0, -4.0, -2.0, 2.0, 4.0)  # degrees that the mean is turned by
_LEAST_TURNED = 0.9  # of the distance of the mean as it is: a part that looks alike all round is not turned
_LEAST = 0.999  # of the distance where an image is: nearly as near is no reason to move it
_FEWEST = 4  # images, two for each half
_AT_ONCE = 32  # images


class Movement(NamedTuple):
    """What brings images to where training images lie: first moved, then turned.

    Attributes:
        rows (torch.Tensor): Pixels down, integers of shape ``(B,)``.
        columns (torch.Tensor): Pixels to the right, likewise.
        degrees (torch.Tensor): Degrees counter-clockwise, shape ``(B,)``.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    degrees: torch.Tensor


class Spectrum(NamedTuple):
    """Real and imaginary part of a Fourier transform of real images, each of shape ``(B, C, H, W // 2 + 1)``."""

    real: torch.Tensor
    imaginary: torch.Tensor


class Correlation(nn.Module):
    """Correlation with kernels of nearly the images' size, by Fourier transforms as matrix products.

    Args:
        size (tuple[int, int]): Height and width ``(H, W)`` of the images.
        count (int): Positions of the kernel along each axis.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    rows_back: torch.Tensor
    columns_back: torch.Tensor

    def __init__(self, size: tuple[int, int], count: int) -> None:
        super().__init__()
        height, width = size
        half = width // 2 + 1  # the others are the conjugates of these
        twice = torch.full((half, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        matrices = {
            "rows": _waves(height, height, height),
            "columns": _waves(width, half, width),
            "rows_back": _waves(count, height, height),
            "columns_back": twice / (height * width) * _waves(half, count, width),
        }
        for name, matrix in matrices.items():  # cosines, then sines
            self.register_buffer(name, matrix.float(), persistent=False)

    def transform(self, images: torch.Tensor) -> Spectrum:
        """Transform images, shape ``(B, C, H, W)``."""
        real, imaginary = images @ self.columns[0], -(images @ self.columns[1])
        cosines, sines = self.rows
        return Spectrum(cosines @ real + sines @ imaginary, cosines @ imaginary - sines @ real)

    def forward(self, images: torch.Tensor, kernels: Spectrum) -> torch.Tensor:
        """Correlate, summed over the channels.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.
            kernels (Spectrum): Transforms of K kernels that were padded to the images' size, ``(K, C, H, W // 2 + 1)``.

        Returns:
            torch.Tensor: Shape ``(B, K, count, count)``: at ``(a, b)`` a kernel's upper left corner lies there.
        """
        real, imaginary = (part[:, None] for part in self.transform(images))
        along = (real * kernels.real + imaginary * kernels.imaginary).sum(dim=2)
        across = (imaginary * kernels.real - real * kernels.imaginary).sum(dim=2)
        cosines, sines = self.rows_back
        along, across = cosines @ along - sines @ across, cosines @ across + sines @ along
        return along @ self.columns_back[0] - across @ self.columns_back[1]


def _waves(first: int, second: int, length: int) -> torch.Tensor:
    """Cosines and sines of a transform of that length, shape ``(2, first, second)``, float64."""
    angles = torch.outer(torch.arange(first), torch.arange(second)) % length * (2 * math.pi / length)
    return torch.stack([angles.double().cos(), angles.double().sin()])


class TemplateRegistration(nn.Module):
    """Find the movement of each image, by whole pixels, that makes it most like the mean of the training images.

    The distance is ``sum_p w(p) sum_c (x_c(p) - t_c(p))²`` over pixels p and colours c of an image x that was moved
    with its borders repeated, with the mean t of training images and ``w = 1 / (v + mean(v) / 4)`` of their variance
    v, all at equal light. Mean and weights are turned by -4 to 4 degrees, and not the image: interpolation would bring
    it nearer to any mean, by taking noise away.

    Args:
        size (tuple[int, int]): Height and width of the images.
        radius (int): Largest movement in rows and in columns, in pixels, at least 1.

    Attributes:
        template (torch.Tensor): Mean of the training images, shape ``(1, 4, H, W)``.
        weights (torch.Tensor): Weight of each place, with a mean of 1, shape ``(1, 1, H, W)``.
        recall (torch.Tensor): Share of the images of one half of the training images that the mean of the other half
            brings back when they were moved, to within a pixel; a scalar, NaN before it was learnt.
        likeness (torch.Tensor): Share of what the one half shows, as sums of squares, that the mean of the other half
            shows; a scalar, NaN before it was learnt.
        is_settled (bool): The template serves for good, as in an export, whose graph cannot depend on it.
    """

    template: torch.Tensor
    weights: torch.Tensor
    recall: torch.Tensor
    likeness: torch.Tensor
    turns: torch.Tensor
    kernels: torch.Tensor
    constants: torch.Tensor

    def __init__(self, size: tuple[int, int], radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.is_settled = False
        height, width = (side + 2 * radius for side in size)
        self.correlation = Correlation((height, width), 2 * radius + 1)
        self.register_buffer("template", torch.zeros(1, COLOURS + 1, *size))
        self.register_buffer("weights", torch.ones(1, 1, *size))
        self.register_buffer("recall", torch.tensor(torch.nan))
        self.register_buffer("likeness", torch.tensor(torch.nan))
        # Of template and weights: what the correlation takes.
        turns = len(TURNS)
        self.register_buffer("turns", torch.tensor(TURNS), persistent=False)
        self.register_buffer("kernels", torch.zeros(2 * turns, COLOURS + 1, height, width // 2 + 1), persistent=False)
        self.register_buffer("constants", torch.zeros(turns, 1), persistent=False)

    @property
    def is_learnt(self) -> bool:
        """Whether training images were seen."""
        return not bool(self.recall.isnan())

    @property
    def is_known(self) -> bool:
        """Whether the template serves: parts have a place, and look like it."""
        return self.is_settled or bool((self.recall >= RECALL) & (self.likeness >= LIKENESS))

    def forward(self, images: torch.Tensor) -> Movement:
        """Find the movements.

        Args:
            images (torch.Tensor): Images at equal light and their detail, which is not looked at, shape
                ``(B, 4, H, W)``, float32.

        Returns:
            Movement: How each must be moved and turned. Where nothing is gained by it, it is not.
        """
        side = 2 * self.radius + 1
        padded = pad(images[:, :COLOURS], (self.radius,) * 4, "replicate")
        both = torch.cat([padded, padded.square().sum(dim=1, keepdim=True)], dim=1)
        distances = (
            self.correlation(both, Spectrum(*self.kernels.chunk(2))).flatten(2) + self.constants
        )  # (B, turns, side²)
        unturned, turned = distances[:, :1], distances[:, 1:] / _LEAST_TURNED
        stay = side * side // 2
        smallest, which = torch.cat([unturned, turned], dim=1).flatten(1).min(dim=1)
        which = torch.where(smallest < _LEAST * distances[:, 0, stay], which, stay)
        turn_index, which = which // side**2, which % side**2
        return Movement(self.radius - which // side, self.radius - which % side, -self.turns[turn_index])

    @torch.no_grad()
    def learn(self, images: torch.Tensor) -> None:
        """Learn the template, and measure whether it serves. Fewer than four images say nothing.

        Args:
            images (torch.Tensor): Good images at equal light, with their detail, shape ``(N, 4, H, W)``, float32.
        """
        if len(images) < _FEWEST:
            return
        self._set(images[::2])
        others = images[1::2]
        colours, mean = others[:, :COLOURS], self.template[:, :COLOURS]
        self.likeness.copy_(1 - (colours - mean).square().sum() / colours.square().sum().clamp_min(1e-12))
        steps = torch.tensor(NEIGHBOURS, device=images.device) * min(_TRIED, self.radius)
        rows, columns = steps.repeat(len(others) // len(steps) + 1, 1)[: len(others)].unbind(dim=1)
        here, there = self._find(others), self._find(move(others, rows, columns))
        is_back = [
            (moved - (own - step).clamp(-self.radius, self.radius)).abs() <= _TOLERANCE
            for own, moved, step in zip(here[:2], there[:2], (rows, columns), strict=True)
        ]
        self.recall.copy_((is_back[0] & is_back[1]).float().mean())
        self._set(images)

    def _find(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Find the movements of many images, some at a time."""
        found = [self(part) for part in images.split(_AT_ONCE)]
        return [torch.cat(values) for values in zip(*found, strict=True)]

    def forget(self) -> None:
        """Forget what was learnt, for a training on other images."""
        self.recall.fill_(torch.nan)
        self.likeness.fill_(torch.nan)

    def _set(self, images: torch.Tensor) -> None:
        self.template.copy_(images.mean(dim=0, keepdim=True))
        variance = images[:, :COLOURS].var(dim=0, correction=0, keepdim=True).mean(dim=1, keepdim=True)
        weights = 1 / (variance + variance.mean() / 4).clamp_min(1e-6)
        self.weights.copy_(weights / weights.mean())
        self._transform()

    def _transform(self) -> None:
        """Prepare what the correlation takes; a distance is multiplied out, ``w x² - 2 w t x + w t²``."""
        count = len(self.turns)
        weights = turn(self.weights.repeat(count, 1, 1, 1), self.turns)
        template = turn(self.template[:, :COLOURS].repeat(count, 1, 1, 1), self.turns)
        weighed = weights * template
        margin = (0, 2 * self.radius, 0, 2 * self.radius)
        self.kernels.copy_(torch.cat(self.correlation.transform(pad(torch.cat([-2 * weighed, weights], 1), margin))))
        self.constants.copy_((weighed * template).sum(dim=(1, 2, 3))[:, None])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._transform()

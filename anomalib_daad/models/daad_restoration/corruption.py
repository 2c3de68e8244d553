# SPDX-License-Identifier: Apache-2.0

"""Corruptions made of good images alone, on the device they are on: what restoration training has to undo.

Regions of an image are filled from another image of the batch, or from elsewhere in the same one: turned, mirrored,
moved, and half of the time in another light. The regions are blobs and lines of smooth noise, as DRAEM and FAIR draw
them, windows, as CutPaste and NSA do, which lie more often where an image has detail, and specks of a few pixels. Light
and colour change in proportion to the contrast and colour that the image has: a grey product gets no coloured stains,
which would be too easy to find.

Papers:
    DRAEM: https://arxiv.org/abs/2108.07610
    CutPaste: https://arxiv.org/abs/2104.04015
    NSA: https://arxiv.org/abs/2109.15222

Example:
    >>> import torch
    >>> corrupted = corrupt(torch.rand(8, 3, 128, 128) * 2 - 1)
    >>> corrupted.images.shape, corrupted.masks.shape
    (torch.Size([8, 3, 128, 128]), torch.Size([8, 1, 128, 128]))
"""

import math
from typing import NamedTuple

import torch
from kornia.augmentation import RandomAffine
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .detail import COLOURS

VISIBLE = 0.08  # change of a pixel, relative to its image's contrast, from which it counts as corrupted
MIN_VISIBLE = 0.015  # the same in units of [-1, 1], for images without contrast
CELLS = 16  # rows and columns of the grid on which windows are drawn
FOCUS = 0.8  # how far windows follow the slopes of an image: 0 draws them anywhere alike
SPECKLED = 0.3  # share of images whose regions are specks


class CorruptedImages(NamedTuple):
    """Images and where they were corrupted.

    Attributes:
        images (torch.Tensor): Shape ``(B, 3, H, W)``, in [-1, 1].
        masks (torch.Tensor): 1 where a pixel visibly changed, else 0, shape ``(B, 1, H, W)``.
    """

    images: torch.Tensor
    masks: torch.Tensor


def corrupt(images: torch.Tensor, share: float = 0.85) -> CorruptedImages:
    """Corrupt a batch.

    Args:
        images (torch.Tensor): Good images, shape ``(B, 3, H, W)``, in [-1, 1]; detail may follow as a fourth channel,
            which is filled along with the colours and is not what makes a change visible.
        share (float): Share of images that are corrupted, in [0, 1]. Defaults to ``0.85``.

    Returns:
        CorruptedImages: The images and the masks of what changed.
    """
    count = len(images)
    others = images.roll(int(torch.randint(count, ())), 0)
    fillings = _displace(torch.where(_coin(images, 0.5), images, others))
    fillings = torch.where(_coin(images, 0.6), relight(fillings, 0.7, 1.5), fillings)
    opacity = _per_image(images, 0.3, 1.7).clamp_max(1)  # half of them cover
    weights = (_regions(images) & _coin(images, share)) * opacity
    corrupted = images + weights * (fillings - images)
    change = (corrupted - images)[:, :COLOURS].abs().mean(dim=1, keepdim=True)
    return CorruptedImages(corrupted, (change > (VISIBLE * _contrast(images)).clamp_min(MIN_VISIBLE)).to(images.dtype))


def relight(images: torch.Tensor, gain: float, bias: float) -> torch.Tensor:
    """Change contrast, brightness and tint of each image, in proportion to what it has of them.

    Args:
        images (torch.Tensor): Images, shape ``(B, 3, H, W)``, in [-1, 1], or with detail ``(B, 4, H, W)``, which
            changes as the contrast does.
        gain (float): Largest change of the contrast's logarithm.
        bias (float): Largest change of the brightness, in standard deviations of the image; the tint, twice the
            standard deviation of its colours where bias is 1, grows with it up to there.

    Returns:
        torch.Tensor: Images, same shape, in [-1, 1].
    """
    colours = images[:, :COLOURS]
    mean = colours.mean(dim=(1, 2, 3), keepdim=True)
    grey = colours.mean(dim=1, keepdim=True)
    colour = 2 * _deviation(colours - grey).clamp_max(0.15)  # (B, 1, 1, 1)
    tint = _uniform((*colours.shape[:2], 1, 1), -1, 1, images) * min(bias, 1.0) * colour
    shift = _per_image(images, -bias, bias) * _contrast(images) + tint
    factor = _per_image(images, -gain, gain).exp()
    lit = ((colours - mean) * factor + mean + shift).clamp(-1, 1)
    return torch.cat([lit, images[:, COLOURS:] * factor], dim=1)


def _displace(images: torch.Tensor) -> torch.Tensor:
    """Turn, mirror, scale and move each image, reflected at its borders."""
    affine = RandomAffine(180, translate=(0.5, 0.5), scale=(0.75, 1.35), padding_mode="reflection", p=1.0)
    mirrored = torch.where(_coin(images, 0.5), images.flip(-1), images)
    return affine(mirrored.float()).to(images.dtype)


def _regions(images: torch.Tensor) -> torch.Tensor:
    """Draw the regions to corrupt, boolean, shape ``(B, 1, H, W)``."""
    is_speckled = _coin(images, SPECKLED)
    noise = _noise(images, is_speckled)
    levels = _level(noise, torch.where(is_speckled, _per_image(images, 0.005, 0.1), _per_image(images, 0.1, 0.5)))
    slopes = torch.hypot(*torch.gradient(noise, dim=(2, 3)))
    lines = (noise - levels / 2).abs() < slopes * _per_image(images, math.log(0.5), math.log(2.0)).exp()
    textures = torch.where(_coin(images, 0.25) & ~is_speckled, lines, noise > levels)
    in_window, is_whole = _coin(images, 0.7) & ~is_speckled, _coin(images, 0.4)
    return (_windows(images) | ~in_window) & (textures | (in_window & is_whole))


def _noise(images: torch.Tensor, is_fine: torch.Tensor) -> torch.Tensor:
    """Smooth noise with cells of a half, or where it is fine of an eighth, to a thirty-second of the image.

    Shape ``(B, 1, H, W)``.
    """
    size = images.shape[-2:]
    layers = []
    for fine in is_fine.flatten().tolist():
        rows, columns = (2 ** torch.randint(3 if fine else 1, 6, (2,))).tolist()
        if torch.rand(()) < 0.7:
            columns = rows
        grid = torch.randn(1, 1, rows + 1, columns + 1, device=images.device)
        layers.append(interpolate(grid, size, mode="bicubic", align_corners=True))
    return torch.cat(layers)


def _level(noise: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Level that a share of each image lies above, shape ``(B, 1, 1, 1)``."""
    ascending = noise.flatten(1).sort(dim=1).values
    place = ((1 - share).flatten(1) * (ascending.shape[1] - 1)).round().long()
    return ascending.gather(1, place)[:, :, None, None]


def _windows(images: torch.Tensor) -> torch.Tensor:
    """Draw rectangles and ellipses, half of them turned, boolean, shape ``(B, 1, H, W)``."""
    height, width = images.shape[-2:]
    side = _per_image(images, math.log(0.05), math.log(0.7)).exp()  # as a share of the image's
    elongation = _per_image(images, -0.6, 0.6).exp()
    angle = _per_image(images, 0, math.pi) * _coin(images, 0.5)
    centers = _centers(images)
    rows = (torch.arange(height, device=images.device).view(-1, 1) + 0.5) / height - centers[0]
    columns = (torch.arange(width, device=images.device) + 0.5) / width - centers[1]
    along = (columns * angle.cos() + rows * angle.sin()) / (side * elongation).clamp_max(0.9)
    across = (rows * angle.cos() - columns * angle.sin()) / (side / elongation).clamp_max(0.9)
    rectangles = torch.maximum(along.abs(), across.abs()) < 0.5
    ellipses = along.square() + across.square() < 0.25
    return torch.where(_coin(images, 0.3), ellipses, rectangles)


def _centers(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw where windows lie, as shares of height and width, each of shape ``(B, 1, 1, 1)``.

    A screw covers a tenth of its image: windows drawn anywhere alike would mostly fill background with background.
    """
    grey = images[:, :COLOURS].mean(dim=1, keepdim=True).float()
    slopes = torch.stack(torch.gradient(grey, dim=(2, 3))).abs().sum(dim=0)
    detail = adaptive_avg_pool2d(slopes, CELLS).flatten(1)  # (B, CELLS²)
    anywhere = detail.mean(dim=1, keepdim=True).clamp_min(1e-6)
    cells = torch.multinomial(FOCUS * detail + (1 - FOCUS) * anywhere, 1)[:, :, None, None]
    rows, columns = cells // CELLS, cells % CELLS
    return (rows + _per_image(images, 0, 1)) / CELLS, (columns + _per_image(images, 0, 1)) / CELLS


def _contrast(images: torch.Tensor) -> torch.Tensor:
    return _deviation(images[:, :COLOURS].mean(dim=1, keepdim=True))


def _deviation(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each sample, shape ``(B, 1, 1, 1)``; torch.std takes several times as long on CPUs."""
    centered = values - values.mean(dim=(1, 2, 3), keepdim=True)
    return centered.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def _coin(images: torch.Tensor, probability: float) -> torch.Tensor:
    return _per_image(images, 0, 1) < probability


def _per_image(images: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return _uniform((len(images), 1, 1, 1), low, high, images)


def _uniform(shape: tuple[int, ...], low: float, high: float, like: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, dtype=like.dtype, device=like.device)

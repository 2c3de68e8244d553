# SPDX-License-Identifier: Apache-2.0

"""Image sizes that a network takes, and images that have another.

Example:
    >>> count_scales((256, 256)), count_scales((32, 32))
    (4, 3)
    >>> refuse_image_size((100, 128), lambda size: (64, 64), "16 times downscale 4")
    Traceback (most recent call last):
    ...
    ValueError: image_size 100x128 must be divisible by 64x64, which is 16 times downscale 4; take 64x128 or 128x128.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

UnitsOf = Callable[[tuple[int, int]], tuple[int, int]]
MAX_SCALES = 4
MIN_BOTTLENECK = 4  # pixels a side


def height_and_width(image_size: Any) -> tuple[int, int]:
    """Take one number for a square.

    Args:
        image_size (Any): Height and width, or the side of a square.

    Returns:
        tuple[int, int]: Height and width, at least 1.

    Raises:
        ValueError: If it is neither.
    """
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if [*map(type, sides)] != [int, int] or min(sides) < 1:
        msg = f"image_size must be two whole numbers, height and width, such as (256, 256), or one; got {image_size!r}."
        raise ValueError(msg)
    return sides


def count_scales(image_size: tuple[int, int]) -> int:
    """Scales of an autoencoder: four, the paper's 16x down-sampling, or as many as leave the bottleneck four pixels.

    Args:
        image_size (tuple[int, int]): Height and width of what it sees.

    Returns:
        int: From 1 to 4.
    """
    return min(MAX_SCALES, max(1, (min(image_size) // MIN_BOTTLENECK).bit_length() - 1))


def refuse_image_size(image_size: tuple[int, int], units_of: UnitsOf, reason: str) -> None:
    """Refuse an image size that is no multiple of a network's units, and name two that are.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        units_of (UnitsOf): Tells what must divide height and width, at least 1, which may depend on them.
        reason (str): Where the units come from.

    Raises:
        ValueError: If they do not divide it.
    """
    units = units_of(image_size)
    if min(image_size) > 0 and not any(side % unit for side, unit in zip(image_size, units, strict=True)):
        return
    start = (max(1, image_size[0]), max(1, image_size[1]))
    smaller, larger = (_nearest(start, units_of, is_up) for is_up in (False, True))
    if larger == smaller:
        units_there = units_of(larger)
        larger = _nearest((larger[0] + units_there[0], larger[1] + units_there[1]), units_of, is_up=True)
    named = [f"{height}x{width}" for height, width in (image_size, units, smaller, larger)]
    msg = f"image_size {named[0]} must be divisible by {named[1]}, which is {reason}; take {named[2]} or {named[3]}."
    raise ValueError(msg)


def _nearest(size: tuple[int, int], units_of: UnitsOf, is_up: bool) -> tuple[int, int]:
    """Nearest size that fits its own units, as the larger or, where there is one, the smaller."""
    while any(side % unit for side, unit in zip(size, units_of(size), strict=True)):
        pairs = zip(size, units_of(size), strict=True)
        height, width = (max(1, -(-side // unit) if is_up else side // unit) * unit for side, unit in pairs)
        size = (height, width)
    return size


def check_images(images: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse images of another kind or size than a network was built for.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        shape (tuple[int, ...]): Channels, height and width that the network was built for.
        dtype (torch.dtype): Of the network's weights.

    Raises:
        ValueError: If the images do not have that size, are video clips or gray, or are not of the weights' type; or if
            those have half precision.
    """
    channels, got = shape[0], tuple(images.shape)
    if images.ndim == 5:
        msg = f"The model judges single images, shape (B, {channels}, H, W), got video clips of shape {got}: give "
        msg += "their frames one by one."
        raise ValueError(msg)
    if images.ndim == 4 and images.shape[1] == 1:
        msg = f"The model judges images of {channels} channels, got gray ones of shape {got}: repeat their channel, "
        msg += "such as images.expand(-1, 3, -1, -1)."
        raise ValueError(msg)
    if dtype.itemsize < 4:
        msg = f"The model's weights are {dtype}, which rounds its scores away: call float() on the model."
        raise ValueError(msg)
    if not images.dtype.is_floating_point:
        msg = f"The model judges images of {dtype}, got {images.dtype}: divide by 255 and let the pre-processor scale."
        raise ValueError(msg)
    if images.dtype != dtype:
        msg = f"The model's weights are {dtype}, got images of {images.dtype}: give images.to({dtype})."
        raise ValueError(msg)
    if tuple(images.shape[1:]) != shape:
        msg = (
            f"The model was built for images of shape (B, {shape[0]}, {shape[1]}, {shape[2]}), got "
            f"{tuple(images.shape)}; set image_size, or let the pre-processor resize to it."
        )
        raise ValueError(msg)

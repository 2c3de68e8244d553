# SPDX-License-Identifier: Apache-2.0

"""Defects that are drawn on crops of textures: scratches, holes, stains and patches of another texture.

Example:
    >>> crop, other = np.full((128, 128), 200.0), np.zeros((128, 128))
    >>> image, mask = blend(crop.astype(np.uint8), *DEFECTS["hole"](np.random.default_rng(0), crop, other))
    >>> image.shape, mask.min(), mask.max()
    ((128, 128), np.uint8(0), np.uint8(255))
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float64]
ByteImage = NDArray[np.uint8]
CROP_SIZE = 128


def blend(crop: ByteImage, layer: FloatImage, weight: FloatImage) -> tuple[ByteImage, ByteImage]:
    """Lay a defect over a crop.

    Args:
        crop (ByteImage): Good image, shape ``(128, 128)``.
        layer (FloatImage): What the defect looks like, same shape, gray levels.
        weight (FloatImage): Its opacity at each pixel, same shape, in [0, 1].

    Returns:
        tuple[ByteImage, ByteImage]: Defective image, and its mask: 255 where the defect lies, which may by chance have
        left a pixel its gray level, and 0 where the image is the crop.
    """
    # A fainter edge would mark pixels that look, or even are, unchanged.
    weight = np.where(weight < 0.04, 0, weight)
    image = np.rint(crop * (1 - weight) + layer.clip(0, 255) * weight)
    return image.astype(np.uint8), np.where(weight > 0, 255, 0).astype(np.uint8)


def _draw_scratch(rng: np.random.Generator, image: FloatImage, _other: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Draw a thin, bent line of uneven width, brighter or darker than the texture.

    Args:
        rng (np.random.Generator): Source of shape, place and gray level.
        image (FloatImage): Good image, shape ``(128, 128)``.

    Returns:
        tuple[FloatImage, FloatImage]: Layer and weight, same shape.
    """
    rows, columns = _pixel_grid(rng.uniform(44, 84, 2))
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(55, 110)
    bend = rng.uniform(-14, 14)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    position = 2 * along / length
    knots = np.linspace(-1, 1, 13)
    course = bend * position**2 + np.interp(position, knots, rng.normal(0, 0.8, len(knots)))
    half_width = rng.uniform(1.4, 2.0) + np.interp(position, knots, rng.uniform(-0.5, 0.5, len(knots)))
    taper = np.sqrt(np.clip(1 - position**4, 0, 1))
    weight = np.clip(half_width * taper + 0.5 - np.abs(across - course), 0, 1)
    level = rng.uniform(215, 250) if rng.random() < 0.5 else rng.uniform(5, 30)
    layer = 0.15 * image + 0.85 * level + rng.normal(0, 8, image.shape)
    return layer, np.where(np.abs(position) < 1, weight, 0)


def _draw_hole(rng: np.random.Generator, image: FloatImage, _other: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Draw a dark hole with a ragged, sharp edge.

    Args:
        rng (np.random.Generator): Source of shape, place and gray level.
        image (FloatImage): Good image, shape ``(128, 128)``.

    Returns:
        tuple[FloatImage, FloatImage]: Layer and weight, same shape.
    """
    depth = _random_blob(rng, radius=rng.uniform(10, 20), raggedness=0.3)
    wall = 0.5 * image * np.exp(-np.maximum(depth, 0) / 2.5)
    layer = rng.uniform(5, 30) + wall + rng.normal(0, 2, image.shape)
    return layer, _smooth_step(depth / 2 + 0.5)


def _draw_stain(rng: np.random.Generator, image: FloatImage, _other: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Draw a soft-edged blob that darkens or bleaches the texture, which still shows.

    Args:
        rng (np.random.Generator): Source of shape, place and strength.
        image (FloatImage): Good image, shape ``(128, 128)``.

    Returns:
        tuple[FloatImage, FloatImage]: Layer and weight, same shape.
    """
    radius = rng.uniform(20, 34)
    depth = _random_blob(rng, radius, raggedness=0.25)
    layer = 0.2 * image if rng.random() < 0.5 else 0.3 * image + 165
    return layer, rng.uniform(0.75, 0.95) * _smooth_step(depth / (0.5 * radius))


def _draw_swapped_patch(
    rng: np.random.Generator, _image: FloatImage, other: FloatImage
) -> tuple[FloatImage, FloatImage]:
    """Draw a turned rectangle of another texture, blended at its border.

    Args:
        rng (np.random.Generator): Source of size, place and angle.
        other (FloatImage): Crop of another texture, shape ``(128, 128)``.

    Returns:
        tuple[FloatImage, FloatImage]: Layer and weight, same shape.
    """
    rows, columns = _pixel_grid(rng.uniform(32, 96, 2))
    angle, (half_height, half_width) = rng.uniform(0, np.pi), rng.uniform(16, 29, 2)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    depth = np.minimum(half_width - np.abs(along), half_height - np.abs(across))
    return other, rng.uniform(0.85, 1) * _smooth_step(depth / 4)


def _pixel_grid(center: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Rows and columns of the pixels of a crop, counted from a point.

    Args:
        center (FloatImage): Row and column of the point, shape ``(2,)``, pixels.

    Returns:
        tuple[FloatImage, FloatImage]: Rows, shape ``(128, 1)``, and columns, shape ``(1, 128)``, pixels.
    """
    pixels = np.arange(CROP_SIZE, dtype=np.float64)
    return (pixels - center[0])[:, None], (pixels - center[1])[None, :]


def _random_blob(rng: np.random.Generator, radius: float, raggedness: float) -> FloatImage:
    """Ellipse with an irregular outline at a random place.

    Args:
        rng (np.random.Generator): Source of place, elongation and outline.
        radius (float): Half of the longer axis, pixels.
        raggedness (float): Size of the irregularities, share of the radius.

    Returns:
        FloatImage: Depth below the outline, shape ``(128, 128)``, about pixels; negative outside.
    """
    rows, columns = _pixel_grid(rng.uniform(32, 96, 2))
    tilt = rng.uniform(0, np.pi)
    along = rows * np.sin(tilt) + columns * np.cos(tilt)
    across = (rows * np.cos(tilt) - columns * np.sin(tilt)) / rng.uniform(0.55, 1)
    angle = np.arctan2(across, along)
    waves = np.arange(2, 13)
    sizes, phases = rng.normal(0, raggedness, len(waves)) / waves**1.5, rng.uniform(0, 2 * np.pi, len(waves))
    outline = 1 + sum(
        size * np.cos(wave * angle + phase) for wave, size, phase in zip(waves, sizes, phases, strict=True)
    )
    return radius * outline - np.hypot(along, across)


def _smooth_step(values: FloatImage) -> FloatImage:
    """Rise smoothly from 0 at 0 to 1 at 1.

    Args:
        values (FloatImage): Any shape.

    Returns:
        FloatImage: Same shape, in [0, 1].
    """
    values = values.clip(0, 1)
    return values**2 * (3 - 2 * values)


DrawDefect = Callable[[np.random.Generator, FloatImage, FloatImage], tuple[FloatImage, FloatImage]]
DEFECTS: dict[str, DrawDefect] = {
    "scratch": _draw_scratch,
    "hole": _draw_hole,
    "stain": _draw_stain,
    "swapped_patch": _draw_swapped_patch,
}

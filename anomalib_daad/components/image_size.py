# SPDX-License-Identifier: Apache-2.0

"""Image sizes that a network takes, and images that have another.

Example:
    >>> count_scales((256, 256)), count_scales((32, 32))
    (4, 3)
    >>> refuse_image_size((100, 128), (64, 64), "16 times downscale 4")
    Traceback (most recent call last):
    ...
    ValueError: image_size 100x128 must be divisible by 64x64, which is 16 times downscale 4; take 64x128 or 128x128.
"""

import torch

MAX_SCALES = 4
MIN_BOTTLENECK = 4  # pixels a side


def count_scales(image_size: tuple[int, int]) -> int:
    """Scales of an autoencoder: four, the paper's 16x down-sampling, or as many as leave the bottleneck four pixels.

    Args:
        image_size (tuple[int, int]): Height and width of what it sees.

    Returns:
        int: From 1 to 4.
    """
    return min(MAX_SCALES, max(1, (min(image_size) // MIN_BOTTLENECK).bit_length() - 1))


def refuse_image_size(image_size: tuple[int, int], units: tuple[int, int], reason: str) -> None:
    """Refuse an image size that is no multiple of a network's units, and name two that are.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        units (tuple[int, int]): What must divide them, at least 1.
        reason (str): Where the units come from.

    Raises:
        ValueError: If they do not divide it.
    """
    sides = list(zip(image_size, units, strict=True))
    if min(image_size) > 0 and not any(side % unit for side, unit in sides):
        return
    smaller = [max(1, side // unit) * unit for side, unit in sides]
    larger = [-(-side // unit) * unit if side > 0 else unit for side, unit in sides]
    if larger == smaller:
        larger = [side + unit for side, unit in zip(smaller, units, strict=True)]
    named = [f"{height}x{width}" for height, width in (image_size, units, smaller, larger)]
    msg = f"image_size {named[0]} must be divisible by {named[1]}, which is {reason}; take {named[2]} or {named[3]}."
    raise ValueError(msg)


def check_images(images: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Refuse images of another size than a network was built for.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        shape (tuple[int, ...]): Channels, height and width that the network was built for.

    Raises:
        ValueError: If the images do not have that size.
    """
    if tuple(images.shape[1:]) != shape:
        msg = (
            f"The model was built for images of shape (B, {shape[0]}, {shape[1]}, {shape[2]}), got "
            f"{tuple(images.shape)}; set image_size, or let the pre-processor resize to it."
        )
        raise ValueError(msg)

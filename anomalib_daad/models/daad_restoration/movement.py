# SPDX-License-Identifier: Apache-2.0

"""Images moved by whole pixels and turned about their centre.

Example:
    >>> import torch
    >>> images = torch.rand(2, 3, 64, 64)
    >>> moved = move(images, torch.tensor([1, 0]), torch.tensor([0, -2]))
    >>> torch.equal(moved[0, :, 1:], images[0, :, :-1]), torch.equal(moved[1, :, :, :-2], images[1, :, :, 2:])
    (True, True)
    >>> torch.allclose(turn(images, torch.tensor([90.0, 0.0]))[0], images[0].rot90(1, (1, 2)), atol=1e-4)
    True
"""

import torch
from torch.nn.functional import grid_sample


def move(
    images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, ground: torch.Tensor | None = None
) -> torch.Tensor:
    """Move each image down and to the right by whole pixels, with its borders repeated, or onto a ground.

    Args:
        images (torch.Tensor): Images or maps, shape ``(B, C, H, W)``.
        rows (torch.Tensor): Pixels down, shape ``(B,)``, integers.
        columns (torch.Tensor): Pixels to the right, shape ``(B,)``, integers.
        ground (torch.Tensor | None): Images of the same shape, seen where a moved image has nothing to show.
            Defaults to ``None``, the image's borders.

    Returns:
        torch.Tensor: Moved images, same shape.
    """
    _, channels, height, width = images.shape
    from_rows = torch.arange(height, device=images.device) - rows[:, None]  # (B, H)
    from_columns = torch.arange(width, device=images.device) - columns[:, None]  # (B, W)
    inner_rows, inner_columns = from_rows.clamp(0, height - 1), from_columns.clamp(0, width - 1)
    moved = images.gather(2, inner_rows[:, None, :, None].expand(-1, channels, -1, width))
    moved = moved.gather(3, inner_columns[:, None, None, :].expand(-1, channels, height, -1))
    if ground is None:
        return moved
    is_shown = (from_rows == inner_rows)[:, None, :, None] & (from_columns == inner_columns)[:, None, None, :]
    return torch.where(is_shown, moved, ground)


def random_shifts(images: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image at random, by whole pixels, all movements alike likely.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        most (int): Most pixels that an image is moved in rows and in columns.

    Returns:
        torch.Tensor: Moved images, same shape, with their borders repeated.
    """
    rows, columns = torch.randint(-most, most + 1, (2, len(images)), device=images.device)
    return move(images, rows, columns)


def turn(images: torch.Tensor, degrees: torch.Tensor, ground: torch.Tensor | None = None) -> torch.Tensor:
    """Turn each image about its centre, with its borders repeated, or onto a ground; bilinear.

    Args:
        images (torch.Tensor): Images or maps, shape ``(B, C, H, W)``, float32.
        degrees (torch.Tensor): Degrees counter-clockwise, shape ``(B,)``. Images that are turned by 0 stay as they are.
        ground (torch.Tensor | None): Images of the same shape, seen where a turned image has nothing to show.
            Defaults to ``None``, the image's borders.

    Returns:
        torch.Tensor: Turned images, same shape.
    """
    height, width = images.shape[-2:]
    cosines, sines = (it.view(-1, 1, 1) for it in (degrees.deg2rad().cos(), degrees.deg2rad().sin()))
    down = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # of the centre, (H, 1)
    across = torch.arange(width, device=images.device) - (width - 1) / 2
    from_columns, from_rows = cosines * across - sines * down, sines * across + cosines * down  # (B, H, W)
    grid = torch.stack([from_columns * (2 / width), from_rows * (2 / height)], dim=3)
    turned = grid_sample(images, grid, padding_mode="border", align_corners=False)
    if ground is not None:
        is_shown = (from_rows.abs() <= (height - 1) / 2) & (from_columns.abs() <= (width - 1) / 2)
        turned = torch.where(is_shown[:, None], turned, ground)
    return torch.where((degrees == 0).view(-1, 1, 1, 1), images, turned)

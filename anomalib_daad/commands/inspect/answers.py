# SPDX-License-Identifier: Apache-2.0

"""What the memories answer to an image: in the place of each block, the good block that its item stands for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from anomalib_daad.commands.shared.picture import Picture, bare, panels

from .images import InspectedImages
from .observation import CloseUp, MemoryUse, Observations


def draw_answers(images: InspectedImages, observations: Observations, close_up: CloseUp, name: str) -> Picture:
    """Draw an image, and for each memory the good blocks that its items stand for.

    An item stands for the block of a good image that gives it more weight than all others do.

    Args:
        images (InspectedImages): Images that were observed.
        observations (Observations): What the model made of them.
        close_up (CloseUp): What it made of the image.
        name (str): The image's name.

    Returns:
        Picture: The image, and a panel for each memory.
    """
    figure, grid = panels(1 + len(close_up.reads), columns=2, height=3.05)
    grid[0].imshow(close_up.image)
    grid[0].set_title("The image")
    texts = []
    for axes, use, read in zip(grid[1:], observations.memories, close_up.reads, strict=True):
        axes.imshow(answer(images, use, read.weights[0], read.grid, close_up.image.shape[:2]))
        axes.set_title(f"Scale {use.scale}: largest weight {use.largest_weight:.1f}/N,\n{_items(use)}")
        texts.append(f"scale {use.scale}: largest weight {use.largest_weight:.1f} times the mean, {_items(use)}")
    for axes in grid:
        bare(axes)
    caption = (
        f"{name}: each block is replaced by the block of a good image that its strongest item stands for. A memory "
        "that chooses shows a good part here, also where this one has a defect. Where the largest weight is a few "
        "times 1/N, the memory mixes hundreds of items, and the strongest says little. Items in effect: the "
        "exponential of the entropy of the weights."
    )
    return Picture("answers", "What the memories answer", caption, f"The image {name}; {'; '.join(texts)}.", figure)


def answer(
    images: InspectedImages, use: MemoryUse, weights: torch.Tensor, grid: tuple[int, int, int], size: Sequence[int]
) -> np.ndarray:
    """Assemble an image of the good blocks that the strongest items stand for.

    Args:
        images (InspectedImages): Images that the examples come from.
        use (MemoryUse): Use of the memory.
        weights (torch.Tensor): Weights of the items for the blocks of an image, shape ``(Q, N)``.
        grid (tuple[int, int, int]): Rows, columns and channel groups of the blocks, Q in all. Of the groups of a
            block the one with the largest weight is shown.
        size (Sequence[int]): Height and width of the result.

    Returns:
        np.ndarray: In [0, 1], shape ``(H, W, 3)``; gray where no good block reads the item, or no item is read.
    """
    rows, columns, groups = grid
    height, width = size
    result = np.full((height, width, 3), 0.5, dtype=np.float32)
    values, items = weights.cpu().unflatten(0, grid).amax(dim=2).max(dim=-1)  # (rows, columns)
    wanted = [
        (int(use.example_images[item]), int(use.example_blocks[item]), row, column)
        for (row, column), item in np.ndenumerate(items.numpy())
        if values[row, column] > 0 and use.example_images[item] >= 0
    ]
    for index in sorted({image for image, *_ in wanted}):
        pixels = interpolate(images[index].pixels[None].float(), (height, width), mode="bilinear", antialias=True)
        picture = pixels[0].permute(1, 2, 0).numpy()
        for _, block, row, column in (one for one in wanted if one[0] == index):
            source_row, source_column = divmod(block // groups, columns)
            target = _slices(row, column, rows, columns, height, width)
            source = _slices(source_row, source_column, rows, columns, height, width)
            result[target] = picture[source]
    return result.clip(0, 1)


def _slices(row: int, column: int, rows: int, columns: int, height: int, width: int) -> tuple[slice, slice]:
    step_down, step_right = height // rows, width // columns
    return (
        slice(row * step_down, (row + 1) * step_down),
        slice(column * step_right, (column + 1) * step_right),
    )


def _items(use: MemoryUse) -> str:
    return f"{use.effective_items:.0f} of {len(use.items)} items in effect"

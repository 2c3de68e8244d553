# SPDX-License-Identifier: Apache-2.0

"""What the memories answer to an image: in the place of each block, the good block that its item stands for."""

from collections.abc import Callable

import numpy as np
import torch

from anomalib_daad.commands.shared.model_picture import to_picture
from anomalib_daad.commands.shared.picture import Picture, bare, panels
from anomalib_daad.registration import Model

from .images import InspectedImages
from .observation import CloseUp, MemoryUse, Observations, prepare


def draw_answers(
    model: Model, images: InspectedImages, observations: Observations, close_up: CloseUp, name: str
) -> Picture:
    """Draw an image, and for each memory the good blocks that its items stand for.

    An item stands for the block of a good image that gives it more weight than all others do.

    Args:
        model (Model): Model.
        images (InspectedImages): Images that were observed.
        observations (Observations): What the model made of them.
        close_up (CloseUp): What it made of the image.
        name (str): The image's name.

    Returns:
        Picture: The image, and a panel for each memory.
    """
    figure, grid = panels(1 + len(close_up.reads), columns=3, height=2.05)
    grid[0].imshow(close_up.image)
    grid[0].set_title("The image")
    height, width = close_up.image.shape[:2]

    def seen(index: int) -> np.ndarray:
        return to_picture(prepare(model, images[index]), (height, width))

    texts = []
    for axes, use, read in zip(grid[1:], observations.memories, close_up.reads, strict=True):
        axes.imshow(answer(seen, use, read.weights[0], read.grid))
        axes.set_title(f"Scale {use.scale}")
        texts.append(f"scale {use.scale}: largest weight {use.largest_weight:.1f} times the mean, {_items(use)}")
    for axes in grid:
        bare(axes)
    kind = "a good" if images.has_good else "another"
    caption = (
        f"{name}: each block is replaced by the block of {kind} image that its strongest item stands for, gray where "
        "none reads it. A memory that chooses shows a good part here, also where this one has a defect. Where the "
        "largest weight is a few times 1/N, the memory mixes hundreds of items, and the strongest says little. Items "
        f"in effect: the exponential of the entropy of the weights. Here {'; '.join(texts)}."
    )
    return Picture("answers", "What the memories answer", caption, f"The image {name}; {'; '.join(texts)}.", figure)


def answer(
    seen: Callable[[int], np.ndarray], use: MemoryUse, weights: torch.Tensor, grid: tuple[int, int, int]
) -> np.ndarray:
    """Assemble an image of the good blocks that the strongest items stand for.

    Args:
        seen (Callable[[int], np.ndarray]): Gives the image of an index as the model sees it, in [0, 1], shape
            ``(H, W, 3)``, of which rows and columns divide the sides.
        use (MemoryUse): Use of the memory.
        weights (torch.Tensor): Weights of the items for the blocks of an image, shape ``(Q, N)``.
        grid (tuple[int, int, int]): Rows, columns and channel groups of the blocks, Q in all. Of the groups of a
            block the one with the largest weight is shown.

    Returns:
        np.ndarray: In [0, 1], shape ``(H, W, 3)``; gray where no good block reads the item, or no item is read.
    """
    rows, columns, groups = grid
    values, items = weights.cpu().unflatten(0, grid).amax(dim=2).max(dim=-1)  # (rows, columns)
    wanted = [
        (int(use.example_images[item]), int(use.example_blocks[item]), row, column)
        for (row, column), item in np.ndenumerate(items.numpy())
        if values[row, column] > 0 and use.example_images[item] >= 0
    ]
    pictures = {index: seen(index) for index in sorted({image for image, *_ in wanted} | {0})}
    height, width = pictures[0].shape[:2]

    def block(row: int, column: int) -> tuple[slice, slice]:
        down, right = height // rows, width // columns
        return slice(row * down, (row + 1) * down), slice(column * right, (column + 1) * right)

    result = np.full((height, width, 3), 0.5, dtype=np.float32)
    for image, number, row, column in wanted:
        result[block(row, column)] = pictures[image][block(*divmod(number // groups, columns))]
    return result


def _items(use: MemoryUse) -> str:
    if use.unanswered == 1:
        return "no block reads an item"
    text = f"{use.effective_items:.0f} of {len(use.items)} items in effect"
    return text + (f", {100 * use.unanswered:.0f}% of the blocks read none" if use.unanswered else "")

# SPDX-License-Identifier: Apache-2.0

"""Pictures of the memories: how alike their items are, how much they are used, and what the blocks of an image read."""

from collections import Counter

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from anomalib_daad.commands.shared.picture import PALETTE, Omission, Picture, bare, panels
from anomalib_daad.registration import Model

from .answers import draw_answers
from .images import InspectedImages
from .observation import CloseUp, MemoryUse, Observations, look

MAX_ITEMS = 1000  # t-SNE of more takes minutes
MAX_NUMBERED = 10  # blocks along a side that are large enough for a number
OUTLINE = [withStroke(linewidth=2, foreground="black")]


def draw_memories(model: Model, images: InspectedImages, observations: Observations) -> list[Picture | Omission]:
    """Draw all pictures of the memories.

    Args:
        model (Model): Model.
        images (InspectedImages): Images.
        observations (Observations): What the model made of them.

    Returns:
        list[Picture | Omission]: The answers and reads of an image, use and items; one omission for a model without
        memories.
    """
    if not observations.memories:
        return [Omission("Memories", "The model has no memories.")]
    labels = observations.labels
    index = 0 if labels is None or not labels.any() else int(np.flatnonzero(labels)[0])
    close_up, name = look(model, images[index]), observations.names[index]
    return [
        draw_answers(model, images, observations, close_up, name),
        draw_reads(observations, close_up, name),
        draw_use(observations),
        draw_items(observations),
    ]


def draw_items(observations: Observations) -> Picture:
    """Draw the items of each memory, so that those that point the same way lie close together.

    Args:
        observations (Observations): What a model made of images.

    Returns:
        Picture: A panel for each memory, coloured by use.
    """
    figure, grid = panels(len(observations.memories), columns=2, height=3.1)
    for axes, memory in zip(grid, observations.memories, strict=True):
        _draw_items_of(axes, memory)
    caption = (
        "Each point is an item of a memory; items that point the same way lie close together (t-SNE of the cosine "
        f"distances). Colour: use over {_count(observations)}, the mean weight in units of 1/N: 1 is an item that is "
        "used as much as if all were used alike. Orange crosses: dead items, which no block reads."
    )
    alt = f"Scatter plots of the memory items of {len(observations.memories)} scales, coloured by use. "
    return Picture("items", "Memory items", caption, alt + _list_dead(observations), figure)


def draw_use(observations: Observations) -> Picture:
    """Draw how much the items of each memory are used.

    Args:
        observations (Observations): What a model made of images.

    Returns:
        Picture: A histogram for each memory.
    """
    figure, grid = panels(len(observations.memories), columns=2, height=2.5)
    for axes, memory in zip(grid, observations.memories, strict=True):
        count = len(memory.items)
        axes.hist(memory.mean_weights * count, bins=30, color=PALETTE[4])
        axes.set_title(f"Scale {memory.scale}: {memory.dead.sum()} of {count}\nitems dead")
        axes.set(xlabel="mean weight times N", ylabel="items", xlim=(0, None))
    caption = (
        f"Mean weight of each item over all blocks of {_count(observations)}, in units of 1/N. Dead items have no "
        "weight in any block: a smaller memory would do."
    )
    alt = f"Histograms of the use of the memory items. {_list_dead(observations)}"
    return Picture("use", "Use of the memories", caption, alt, figure)


def draw_reads(observations: Observations, close_up: CloseUp, name: str) -> Picture:
    """Draw which item each block of an image reads most.

    Args:
        observations (Observations): What the model made of images.
        close_up (CloseUp): What it made of the image.
        name (str): The image's name.

    Returns:
        Picture: A panel for each memory.
    """
    figure, grid = panels(len(close_up.reads), columns=2, height=3.05)
    texts = []
    for axes, use, read in zip(grid, observations.memories, close_up.reads, strict=True):
        scale, strongest = use.scale, strongest_items(read.weights[0], read.grid)
        _draw_reads_of(axes, close_up.image, strongest)
        rows, columns = strongest.shape
        axes.set_title(f"Scale {scale}: {rows}x{columns} blocks")
        texts.append(f"scale {scale} reads {len(np.unique(strongest))} different items in {strongest.size} blocks")
    caption = (
        f"{name}: the number of the item that each block gives the most weight; where channels are divided too, the "
        "most of all channel groups. The items that most blocks share are coloured, up to seven; grids of many "
        "blocks have colours alone."
    )
    return Picture("reads", "What an image reads", caption, f"The image {name}: {'; '.join(texts)}.", figure)


def strongest_items(weights: torch.Tensor, division_rates: tuple[int, int, int]) -> np.ndarray:
    """Find the item with the largest weight in each block.

    Args:
        weights (torch.Tensor): Weights of the items for the queries of an image, shape ``(Q, N)``.
        division_rates (tuple[int, int, int]): Division rates ``(r_h, r_w, r_c)`` with ``Q = r_h * r_w * r_c``.

    Returns:
        np.ndarray: Numbers of items, shape ``(r_h, r_w)``.
    """
    return weights.unflatten(0, division_rates).amax(dim=2).argmax(dim=-1).cpu().numpy()


def _draw_items_of(axes: Axes, memory: MemoryUse) -> None:
    count = len(memory.items)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:MAX_ITEMS])
    axes.set_title(f"Scale {memory.scale}: " + (f"{MAX_ITEMS} of " if count > MAX_ITEMS else "") + f"{count} items")
    places = place(memory.items[chosen])
    use, dead = memory.mean_weights[chosen] * count, memory.dead[chosen]
    points = axes.scatter(places[~dead, 0], places[~dead, 1], c=use[~dead], s=14, cmap="viridis", vmin=0)
    axes.scatter(places[dead, 0], places[dead, 1], c="#D55E00", s=26, marker="x")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    if not dead.all():
        axes.figure.colorbar(
            points, ax=axes, location="bottom", label="mean weight times N", pad=0.02, aspect=25, ticks=MaxNLocator(4)
        )


def place(items: np.ndarray) -> np.ndarray:
    """Place items in the plane so that those that point the same way lie close together.

    Args:
        items (np.ndarray): Items, shape ``(n, D)``.

    Returns:
        np.ndarray: Places, shape ``(n, 2)``; the same in every run.
    """
    if len(items) < 4:  # too few for neighbourhoods
        return np.stack([np.arange(len(items)), np.zeros(len(items))], axis=1)
    perplexity = min(30.0, (len(items) - 1) / 3)
    with threadpool_limits(1):  # one thread is faster on so little, and always adds up in the same order
        return TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0).fit_transform(items)


def _draw_reads_of(axes: Axes, image: np.ndarray, strongest: np.ndarray) -> None:
    height, width = image.shape[:2]
    rows, columns = strongest.shape
    extent = (0, width, height, 0)
    shared = [item for item, blocks in Counter(strongest.flatten().tolist()).most_common(len(PALETTE)) if blocks > 1]
    colours = np.zeros((rows, columns, 4))
    for item, colour in zip(shared, PALETTE, strict=False):
        colours[strongest == item] = (*(int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)), 0.55)
    axes.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=1, extent=extent)
    axes.imshow(colours, extent=extent, interpolation="nearest")
    bare(axes)
    if max(rows, columns) > MAX_NUMBERED:
        return
    axes.hlines(np.arange(rows + 1) * height / rows, 0, width, color="white", linewidth=0.6)
    axes.vlines(np.arange(columns + 1) * width / columns, 0, height, color="white", linewidth=0.6)
    for (row, column), item in np.ndenumerate(strongest):
        place_of_number = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        axes.text(
            *place_of_number, str(item), color="white", fontsize=8, ha="center", va="center", path_effects=OUTLINE
        )


def _count(observations: Observations) -> str:
    return f"{len(observations.names)} images"


def _list_dead(observations: Observations) -> str:
    dead = [f"scale {use.scale}: {use.dead.sum()} of {len(use.dead)} dead" for use in observations.memories]
    return f"Dead items: {', '.join(dead)}."

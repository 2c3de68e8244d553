# SPDX-License-Identifier: Apache-2.0

"""What a model makes of images: one pass for the scores and the use of the memories, and a close look at one image."""

from typing import NamedTuple

import numpy as np
import torch
from anomalib.pre_processing import PreProcessor
from rich.progress import track

from anomalib_daad.commands.shared.model_picture import to_picture
from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.components.network import Explanation
from anomalib_daad.registration import Model

from .images import InspectedImage, InspectedImages


class Observations(NamedTuple):
    """Scores of n images, and what their blocks read from the memories.

    Attributes:
        names (list[str]): Names of the images.
        labels (np.ndarray | None): True for defective images, shape ``(n,)``; None where some are not labelled.
        areas (np.ndarray): The defect's share of the image's pixels, in [0, 1], shape ``(n,)``; NaN without a mask.
        reconstruction (np.ndarray): R(x), shape ``(n,)``.
        alignment (np.ndarray | None): L(x), or what stands in its place, shape ``(n,)``; None without.
        fused (np.ndarray): The score that R(x) and L(x) are fused to, shape ``(n,)``.
        memories (list[MemoryUse]): Use of each memory, fine to coarse.
    """

    names: list[str]
    labels: np.ndarray | None
    areas: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray | None
    fused: np.ndarray
    memories: list["MemoryUse"]


class MemoryUse(NamedTuple):
    """Use of a memory by all blocks of all images.

    Attributes:
        scale (int): Scale of the autoencoder, from 1, the finest.
        items (np.ndarray): Items, shape ``(N, D)``.
        mean_weights (np.ndarray): Mean weight of each item over all blocks, shape ``(N,)``.
        dead (np.ndarray): True for an item that no block gave a weight, shape ``(N,)``.
        example_images (np.ndarray): The good image, or without labels any but the first, whose block gave the item
            more weight than all others did; its index, -1 where none gave any, shape ``(N,)``.
        example_blocks (np.ndarray): That block's number, shape ``(N,)``.
        largest_weight (float): Mean over all blocks of the largest weight times N; 1 where a memory cannot choose.
        effective_items (float): Mean over the blocks that read an item of the exponential of the entropy of the
            weights, from 1 to N; NaN where none does.
        unanswered (float): Share of blocks that read no item, in [0, 1].
    """

    scale: int
    items: np.ndarray
    mean_weights: np.ndarray
    dead: np.ndarray
    example_images: np.ndarray
    example_blocks: np.ndarray
    largest_weight: float
    effective_items: float
    unanswered: float


class CloseUp(NamedTuple):
    """What a model makes of one image.

    Attributes:
        image (np.ndarray): What the model saw, in [0, 1], shape ``(H, W, 3)``.
        reconstruction (np.ndarray): In [0, 1], same shape.
        error (np.ndarray): Absolute difference of the two, averaged over the channels, in [0, 1], shape ``(H, W)``.
        anomaly_map (np.ndarray): Anomaly map, shape ``(H, W)``.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
    """

    image: np.ndarray
    reconstruction: np.ndarray
    error: np.ndarray
    anomaly_map: np.ndarray
    reads: list[MemoryRead]


@torch.no_grad()
def observe(model: Model, images: InspectedImages) -> Observations:
    """Pass all images through a model, one at a time, so that the weights of a memory of single pixels fit memory.

    Args:
        model (Model): Model in evaluation mode.
        images (InspectedImages): Images, n of them.

    Returns:
        Observations: Scores and use of the memories.

    Raises:
        ValueError: If a score is not finite.
    """
    names, labels, areas, scores = [], [], [], []
    reads = _UseCounter()
    for image in track(images, "Inspecting images", transient=True):
        names.append(image.name)
        labels.append(image.defective)
        areas.append(np.nan if image.mask is None else float(image.mask.float().mean()))
        prepared = prepare(model, image)  # (1, 3, H, W)
        parts, fused = model.model.scores(prepared), model.model(prepared).pred_score
        scores.append([part.item() for part in (*parts, fused) if part is not None])
        is_example = image.defective is False if images.has_good else len(names) > 1
        reads.add(model.model.explain(prepared), is_example)
    columns = np.array(scores).T
    if not np.isfinite(columns).all():
        msg = "The model's scores are not finite: its training went wrong; inspect an earlier checkpoint."
        raise ValueError(msg)
    known = None if None in labels else np.array(labels, dtype=bool)
    alignment = columns[1] if len(columns) == 3 else None
    return Observations(names, known, np.array(areas), columns[0], alignment, columns[-1], reads.summarize())


def prepare(model: Model, image: InspectedImage) -> torch.Tensor:
    """Make an image what the model takes.

    Args:
        model (Model): Model.
        image (InspectedImage): Image of any size.

    Returns:
        torch.Tensor: In [-1, 1], shape ``(1, 3, H, W)``.
    """
    pixels = image.pixels[None].to(model.device)
    return model.pre_processor(pixels) if isinstance(model.pre_processor, PreProcessor) else pixels


@torch.no_grad()
def look(model: Model, image: InspectedImage) -> CloseUp:
    """Look closely at one image.

    Args:
        model (Model): Model in evaluation mode.
        image (InspectedImage): Image of any size.

    Returns:
        CloseUp: What the model makes of it.
    """
    prepared = prepare(model, image)  # (1, 3, H, W)
    seen, expected, reads = model.model.explain(prepared)
    anomaly_map = model.model(prepared).anomaly_map[0, 0].cpu().numpy()
    size = anomaly_map.shape
    rebuilt = to_picture(expected, size)
    error = np.abs(to_picture(seen, size) - rebuilt).mean(axis=-1)
    return CloseUp(to_picture(prepared, size), rebuilt, error, anomaly_map, reads)


def choose(observations: Observations, count: int) -> list[int]:
    """Choose good and defective images, spread evenly over the data, and so over the kinds of defects.

    Args:
        observations (Observations): Observations of n images.
        count (int): Images of each kind, or twice as many of images without labels.

    Returns:
        list[int]: Indices, the good images first.
    """
    labels = observations.labels
    if labels is None:
        return _spread(np.arange(len(observations.names)), 2 * count)
    return _spread(np.flatnonzero(~labels), count) + _spread(np.flatnonzero(labels), count)


def _spread(indices: np.ndarray, count: int) -> list[int]:
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return indices[places].tolist()


class _UseCounter:
    """Adds up the use of the memories, image by image."""

    def __init__(self) -> None:
        self.images = 0
        self.tallies: list[_Tally] = []

    def add(self, explanation: Explanation, is_example: bool) -> None:
        if not self.tallies:
            self.tallies = [_Tally(scale_of(read, explanation), read.items.cpu()) for read in explanation.reads]
        for tally, read in zip(self.tallies, explanation.reads, strict=True):
            tally.add(read.weights.flatten(0, 1).cpu(), self.images if is_example else None)
        self.images += 1

    def summarize(self) -> list[MemoryUse]:
        return [tally.summarize() for tally in self.tallies]


class _Tally:
    """The use of one memory."""

    def __init__(self, scale: int, items: torch.Tensor) -> None:
        self.scale, self.items, self.blocks, self.answered = scale, items, 0, 0
        self.sums = torch.zeros(len(items), dtype=torch.float64)
        self.read = torch.zeros(len(items), dtype=torch.bool)
        self.largest = self.effective = 0.0
        self.best = torch.zeros(len(items))
        self.example_images = torch.full((len(items),), -1)
        self.example_blocks = torch.zeros(len(items), dtype=torch.int64)

    def add(self, weights: torch.Tensor, example: int | None) -> None:
        """Add what the blocks of an image gave the items ``(Q, N)``; the image's index where it may be an example."""
        self.sums += weights.sum(dim=0, dtype=torch.float64)
        self.read |= (weights > 0).any(dim=0)
        self.largest += float(weights.amax(dim=1).sum())
        sums = weights.sum(dim=1, keepdim=True)
        shares = (weights / sums)[sums[:, 0] > 0]
        self.effective += float(torch.special.entr(shares).sum(dim=1).exp().sum())
        self.answered += len(shares)
        self.blocks += len(weights)
        if example is None:
            return
        values, blocks = weights.max(dim=0)
        better = values > self.best
        self.best = torch.where(better, values, self.best)
        self.example_images[better] = example
        self.example_blocks = torch.where(better, blocks, self.example_blocks)

    def summarize(self) -> MemoryUse:
        return MemoryUse(
            self.scale,
            self.items.detach().numpy(),
            (self.sums / self.blocks).numpy(),
            (~self.read).numpy(),
            self.example_images.numpy(),
            self.example_blocks.numpy(),
            self.largest * len(self.items) / self.blocks,
            self.effective / self.answered if self.answered else np.nan,
            1 - self.answered / self.blocks,
        )


def scale_of(read: MemoryRead, explanation: Explanation) -> int:
    """Tell at which scale of the autoencoder a memory lies.

    Args:
        read (MemoryRead): What the memory did.
        explanation (Explanation): What the network saw.

    Returns:
        int: From 1, the finest, whose features have half of the image's height.
    """
    return (explanation.seen.shape[-2] // read.features.shape[-2]).bit_length() - 1

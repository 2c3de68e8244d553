# SPDX-License-Identifier: Apache-2.0

"""What a model makes of images: one pass for the scores and the use of the memories, and a close look at one image."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from anomalib.pre_processing import PreProcessor
from rich.progress import track
from torch.nn.functional import interpolate

from anomalib_daad.components.autoencoder import MemoryAutoencoder
from anomalib_daad.components.block_memory import BlockMemory, MemoryRead
from anomalib_daad.models.daad.lightning_model import Daad
from anomalib_daad.models.daad_restoration.detail import COLOURS

from .images import InspectedImage, InspectedImages


class Observations(NamedTuple):
    """Scores of n images, and what their blocks read from the memories.

    Attributes:
        names (list[str]): Names of the images.
        labels (np.ndarray | None): True for defective images, shape ``(n,)``; None where some are not labelled.
        areas (np.ndarray): The defect's share of the image's pixels, in [0, 1], shape ``(n,)``; NaN without a mask.
        reconstruction (np.ndarray): R(x), shape ``(n,)``.
        alignment (np.ndarray | None): L(x), shape ``(n,)``; None for a model without discriminator.
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
    """

    scale: int
    items: np.ndarray
    mean_weights: np.ndarray
    dead: np.ndarray


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
def observe(model: Daad, images: InspectedImages) -> Observations:
    """Pass all images through a model, one at a time, so that the weights of a memory of single pixels fit memory.

    Args:
        model (Daad): Model in evaluation mode.
        images (InspectedImages): Images, n of them.

    Returns:
        Observations: Scores and use of the memories.

    Raises:
        ValueError: If a score is not finite.
    """
    names, labels, areas, scores = [], [], [], []
    reads = _UseCounter(model.model.autoencoder)
    for image in track(images, "Inspecting images", transient=True):
        names.append(image.name)
        labels.append(image.defective)
        areas.append(np.nan if image.mask is None else float(image.mask.float().mean()))
        prepared = prepare(model, image)  # (1, 3, H, W)
        parts, fused = model.model.scores(prepared), model.model(prepared).pred_score
        scores.append([part.item() for part in (*parts, fused) if part is not None])
        reads.add(model.model.autoencoder.reconstruct(model.model.in_place(prepared).images).reads)
    columns = np.array(scores).T
    if not np.isfinite(columns).all():
        msg = "The model's scores are not finite: its training went wrong; inspect an earlier checkpoint."
        raise ValueError(msg)
    known = None if None in labels else np.array(labels, dtype=bool)
    alignment = columns[1] if len(columns) == 3 else None
    return Observations(names, known, np.array(areas), columns[0], alignment, columns[-1], reads.summarize())


def prepare(model: Daad, image: InspectedImage) -> torch.Tensor:
    """Make an image what the model takes.

    Args:
        model (Daad): Model.
        image (InspectedImage): Image of any size.

    Returns:
        torch.Tensor: In [-1, 1], shape ``(1, 3, H, W)``.
    """
    pixels = image.pixels[None].to(model.device)
    return model.pre_processor(pixels) if isinstance(model.pre_processor, PreProcessor) else pixels


@torch.no_grad()
def look(model: Daad, image: InspectedImage) -> CloseUp:
    """Look closely at one image.

    Args:
        model (Daad): Model in evaluation mode.
        image (InspectedImage): Image of any size.

    Returns:
        CloseUp: What the model makes of it.
    """
    prepared = prepare(model, image)  # (1, 3, H, W)
    placed = model.model.in_place(prepared)
    rebuilt, reads = model.model.autoencoder.reconstruct(placed.images)
    anomaly_map = model.model(prepared).anomaly_map[0, 0].cpu().numpy()
    size = anomaly_map.shape
    seen, reconstruction = _to_picture(model.model.downscale(prepared), size), _to_picture(placed.back(rebuilt), size)
    error = np.abs(seen - reconstruction).mean(axis=-1)
    return CloseUp(_to_picture(prepared, size), reconstruction, error, anomaly_map, reads)


def _to_picture(images: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """``(1, C, h, w)`` in [-1, 1], colours first -> ``(H, W, 3)`` in [0, 1]."""
    colours = images if images.shape[-2:] == size else interpolate(images, size, mode="bilinear")
    return ((colours[0, :COLOURS] + 1) / 2).clamp(0, 1).permute(1, 2, 0).cpu().numpy()


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
    """Adds up the weights of the items, image by image."""

    def __init__(self, autoencoder: MemoryAutoencoder) -> None:
        self.memories = [
            (scale, memory)
            for scale, memory in enumerate(autoencoder.memories, start=1)
            if isinstance(memory, BlockMemory)
        ]
        self.sums = [torch.zeros(len(memory.items), dtype=torch.float64) for _, memory in self.memories]  # (N,) each
        self.read = [torch.zeros(len(memory.items), dtype=torch.bool) for _, memory in self.memories]
        self.blocks = [0] * len(self.memories)

    def add(self, reads: Iterable[MemoryRead]) -> None:
        for index, read in enumerate(reads):
            weights = read.weights.flatten(0, 1)  # (Q, N)
            self.sums[index] += weights.sum(dim=0, dtype=torch.float64).cpu()
            self.read[index] |= (weights > 0).any(dim=0).cpu()
            self.blocks[index] += len(weights)

    def summarize(self) -> list[MemoryUse]:
        return [
            MemoryUse(scale, memory.items.detach().cpu().numpy(), (total / blocks).numpy(), (~read).numpy())
            for (scale, memory), total, read, blocks in zip(
                self.memories, self.sums, self.read, self.blocks, strict=True
            )
        ]

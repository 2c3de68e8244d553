# SPDX-License-Identifier: Apache-2.0

"""Decoded images kept in memory: anomalib reads and resizes every file anew in every epoch."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize


class CachedDataset(Dataset):
    """Items of another data set, each read once.

    Args:
        dataset (Dataset): Data set with a length whose items do not change from one reading to the next.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._items: dict[int, Any] = {}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one item, from memory from the second time on.

        Args:
            index (int): Index of the item.

        Returns:
            Any: The item as the other data set gave it; not a copy.
        """
        if index not in self._items:
            self._items[index] = self.dataset[index]
        return self._items[index]


def cache_images(loaders: Iterable[Any], max_bytes: float) -> list[Any]:
    """Replace data loaders by loaders that keep their images in memory, where that changes nothing but the speed.

    A loader stays as it is where its data set is not one of anomalib's, has augmentations (the resize apart), which
    may be random, or is too large, and where it has no plain batches.

    Args:
        loaders (Iterable[Any]): Data loaders.
        max_bytes (float): The most that the images of all may take, judged by the first image of each.

    Returns:
        list[Any]: Data loaders with the same batches in the same order for the same random state.
    """
    cached = []
    for loader in loaders:
        size = _decoded_size(loader)
        if size is None or size > max_bytes:
            cached.append(loader)
            continue
        max_bytes -= size
        cached.append(
            DataLoader(
                CachedDataset(loader.dataset),
                batch_size=loader.batch_size,
                sampler=loader.sampler,
                drop_last=loader.drop_last,
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
                generator=loader.generator,
            )
        )
    return cached


def _decoded_size(loader: Any) -> int | None:
    """Bytes of a loader's decoded images, None where they may not be kept."""
    dataset: Any = getattr(loader, "dataset", None)
    augmentations = getattr(dataset, "augmentations", False)
    if (
        not (augmentations is None or isinstance(augmentations, Resize))
        or loader.batch_size is None
        or not len(dataset)
    ):
        return None
    first = vars(dataset[0]).values()
    return len(dataset) * sum(value.nbytes for value in first if isinstance(value, torch.Tensor))

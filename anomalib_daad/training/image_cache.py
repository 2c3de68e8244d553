# SPDX-License-Identifier: Apache-2.0

"""Decoded images kept in memory: anomalib reads and resizes every file anew in every epoch."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize

from .lightning_internals import loaders_of, restart_training_data


class ImageCache(Callback):
    """Keeps decoded images in memory in training. All models of this package have one, unless the trainer has its own.

    Args:
        max_gb (float): The most that training and validation images may take, in GB each; 0 keeps none.
            Defaults to ``2.0``.

    Raises:
        ValueError: If it is negative.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[ImageCache(max_gb=8)])
    """

    def __init__(self, max_gb: float = 2.0) -> None:
        if max_gb < 0:
            msg = f"max_gb must not be negative, got {max_gb}; 0 keeps no images."
            raise ValueError(msg)
        self.max_gb = max_gb

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the training images where they fit.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Not used.
        """
        del pl_module
        self._keep(trainer.fit_loop)
        restart_training_data(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the validation images, from the next validation of a training on.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Not used.
        """
        del pl_module
        if trainer.state.fn == TrainerFn.FITTING:
            self._keep(trainer.fit_loop.epoch_loop.val_loop)

    def _keep(self, loop: Any) -> None:
        loaders = loaders_of(loop)
        if loaders is not None:
            loaders.flattened = cache_images(loaders.flattened, self.max_gb * 1e9)


class CachedDataset(Dataset):
    """Items of another data set, each read once where there is room for it.

    Args:
        dataset (Dataset): Data set with a length whose items do not change from one reading to the next.
        max_bytes (float): The most that the tensors of the items that are kept may take.
    """

    def __init__(self, dataset: Any, max_bytes: float) -> None:
        self.dataset = dataset
        self.left = max_bytes
        self._items: dict[int, Any] = {}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one item, from memory from the second time on.

        Args:
            index (int): Index of the item.

        Returns:
            Any: The item as the other data set gave it, a shallow copy: anomalib's collate puts enlarged images into
            items whose batch has larger ones.
        """
        if index in self._items:
            return copy.copy(self._items[index])
        item = self.dataset[index]
        if (size := _size(item)) <= self.left:
            self.left -= size
            self._items[index] = copy.copy(item)
        return item


def cache_images(loaders: Iterable[Any], max_bytes: float) -> list[Any]:
    """Replace data loaders by loaders that keep their images in memory, where that changes nothing but the speed.

    A loader stays as it is where its data set is not one of anomalib's, has augmentations (the resize apart), which
    may be random, or is too large, and where it has no plain batches.

    Args:
        loaders (Iterable[Any]): Data loaders.
        max_bytes (float): The most that the images of all may take. A loader whose images would take more, judged by
            the first, keeps none; what is larger than the first is counted as it comes.

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
                CachedDataset(loader.dataset, size),
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
    return len(dataset) * _size(dataset[0])


def _size(item: Any) -> int:
    """Bytes of the tensors of one of anomalib's items."""
    return sum(value.nbytes for value in vars(item).values() if isinstance(value, torch.Tensor))

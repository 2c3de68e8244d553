# SPDX-License-Identifier: Apache-2.0

"""One-class novelty detection on MNIST and CIFAR-10, the protocol of the paper's Table 2.

It is the second protocol of OCGAN (Perera et al., CVPR 2019): one class is normal; a model learns from this class's
official training images and is tested on the whole official test set, where all other classes are anomalous. Table 2
gives the mean image AUROC of the ten runs that make each class normal in turn.

The images lie in memory. They keep their size, 28 pixels for MNIST; the model's pre-processor resizes them, as it does
any image, so that a model of 32 pixels sees MNIST resized to 32.

anomalib's visualizer draws on image files, and a test set of 10,000 would take it minutes: build models with
``visualizer=False``. For the same reason there are no synthetic splits. Only CIFAR-10 as a folder of image files allows
both.

Example:
    >>> from anomalib.engine import Engine
    >>> from anomalib_daad import Daad, OneClassMNIST
    >>> model = Daad(image_size=(32, 32), num_scales=3, division_rates=(2, 2, 1), flips=False, visualizer=False)
    >>> Engine(max_epochs=20).train(model, datamodule=OneClassMNIST(normal_class=8))  # doctest: +SKIP
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import Split, ValSplitMode
from anomalib.visualization import ImageVisualizer
from numpy.typing import NDArray
from pandas import DataFrame
from torchvision.datasets import CIFAR10, MNIST

from .in_memory_dataset import InMemoryDataset

Source = TypeVar("Source", MNIST, CIFAR10)
ByteImages = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


class LabelledImages(NamedTuple):
    """Images of several classes.

    Args:
        images (ByteImages): N images, shape ``(H, W)`` or ``(H, W, 3)`` each, uint8.
        labels (NDArray[np.int64]): Class of each, shape ``(N,)``.
        names (list[str]): Unique name of each, the path where it is a file.
    """

    images: ByteImages
    labels: NDArray[np.int64]
    names: list[str]


class OneClassDataModule(AnomalibDataModule, ABC):
    """Datamodule in which one class of a labelled data set is normal and all others are anomalous.

    Args:
        root (Path | str): Where the data lie.
        normal_class (int | str): Index or name of the normal class.
        arguments: As anomalib's ``AnomalibDataModule``.

    Raises:
        ValueError: If the class is unknown.
    """

    classes: ClassVar[tuple[str, ...]]

    def __init__(self, root: Path | str, normal_class: int | str, **arguments: Any) -> None:
        super().__init__(**arguments)
        if normal_class not in (*range(len(self.classes)), *self.classes):
            msg = f"normal_class must be 0 to {len(self.classes) - 1} or one of {', '.join(self.classes)}, "
            msg += f"got {normal_class!r}."
            raise ValueError(msg)
        self.root = Path(root)
        self.normal_class = self.classes.index(normal_class) if isinstance(normal_class, str) else int(normal_class)
        self.category = self.classes[self.normal_class]

    def setup(self, stage: str | None = None) -> None:
        """Read the data and split them.

        Args:
            stage (str | None): Stage. Defaults to ``None``.

        Raises:
            FileNotFoundError: If the data are not there.
            ValueError: If the data lack what the protocol needs, or if image files are needed and there are none.
        """
        if not self.has_files:
            self._refuse_what_needs_files()
        super().setup(stage)

    @property
    def has_files(self) -> bool:
        """Whether each image is a file of its own."""
        return False

    def _refuse_what_needs_files(self) -> None:
        """Say what to change, before training rather than after it."""
        if ValSplitMode.SYNTHETIC in (self.val_split_mode, self.test_split_mode):
            msg = f"{self.name} has no image files to make synthetic anomalies of; use another split mode."
            raise ValueError(msg)
        if any(isinstance(callback, ImageVisualizer) for callback in getattr(self.trainer, "callbacks", [])):
            msg = f"{self.name} has no image files for anomalib's visualizer to draw on; build the model with "
            msg += "visualizer=False (on the command line --model.visualizer false)."
            raise ValueError(msg)

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = InMemoryDataset(self._samples_of(Split.TRAIN))
        self.test_data = InMemoryDataset(self._samples_of(Split.TEST))

    def _samples_of(self, split: Split) -> DataFrame:
        """Table of the samples of a split: in training those of the normal class, in the test all."""
        images, labels, names = self._read(split)
        normal = labels == self.normal_class
        if not normal.any():
            msg = f"{self.root} has no {split.value} images of class {self.category}, which shall be normal; "
            msg += "give the root of the whole data set, or another normal_class."
            raise ValueError(msg)
        used = np.flatnonzero(normal | (split == Split.TEST)).tolist()
        samples = DataFrame(
            {
                "image_path": [names[index] for index in used],
                "label": [self.classes[label] for label in labels[used]],
                "label_index": np.where(normal[used], 0, 1),
                "mask_path": "",
                "split": split.value,
                # Views would keep the other classes' training images in memory.
                "image": [images[index].copy() for index in used],
            }
        )
        samples.attrs["task"] = TaskType.CLASSIFICATION.value
        return samples

    @abstractmethod
    def _read(self, split: Split) -> LabelledImages:
        """Read a split; in training, classes that are not normal may be left out."""

    def _label(self, images: ByteImages, labels: Any, split: Split) -> LabelledImages:
        """Name images that are no files, for instance ``OneClassMNIST/test/00012_9``; they sort in official order."""
        labels = np.asarray(labels, dtype=np.int64)
        names = [f"{self.name}/{split.value}/{index:05d}_{self.classes[label]}" for index, label in enumerate(labels)]
        return LabelledImages(images, labels, names)


def read_torchvision(source: type[Source], root: Path, split: Split, download: bool = False) -> Source:
    """Read one of torchvision's data sets.

    Args:
        source (type[MNIST] | type[CIFAR10]): Which.
        root (Path): Folder that it lies in.
        split (Split): Training or test images.
        download (bool): Download it where it is missing. Defaults to ``False``.

    Returns:
        MNIST | CIFAR10: The data.

    Raises:
        FileNotFoundError: If it is neither there nor can be downloaded.
    """
    try:
        return source(root, train=split == Split.TRAIN, download=download)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"{root} does not hold {source.__name__} and it cannot be downloaded there ({reason}); give a root that "
        msg += f"torchvision.datasets.{source.__name__} reads, or one of the other forms that the documentation names."
        raise FileNotFoundError(msg) from error

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
from typing import Any, ClassVar, NamedTuple
from zipfile import BadZipFile

import numpy as np
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.visualization import ImageVisualizer
from numpy.typing import NDArray
from pandas import DataFrame
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST
from torchvision.transforms.v2 import Transform

from .in_memory_dataset import InMemoryDataset

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


class OneClassMNIST(OneClassDataModule):
    """MNIST with one normal digit.

    Args:
        root (Path | str): An ``.npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras' is, or a
            folder that ``torchvision.datasets.MNIST`` reads, which is the one above ``MNIST/raw``; there the data are
            downloaded if they are missing. Defaults to ``"./datasets/MNIST"``.
        normal_class (int): The normal digit. Defaults to ``0``.
        train_batch_size (int): Training batch size. Defaults to ``64``.
        eval_batch_size (int): Validation and test batch size. Defaults to ``256``.
        num_workers (int): Worker processes of each loader; 0 reads in the main process. Defaults to ``0``.
        train_augmentations (Transform | None): Augmentations of the training images. Defaults to ``None``.
        test_split_mode (TestSplitMode | str): Where the test images come from; the protocol's is
            ``TestSplitMode.FROM_DIR``, which is the whole official test set. Defaults to ``TestSplitMode.FROM_DIR``.
        val_split_mode (ValSplitMode | str): Where the validation images come from, with which the score is scaled and
            the threshold chosen. ``from_train`` leaves the test set unseen and takes images from training.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Share of the images that is used to validate, where they are split.
            Defaults to ``0.5``.
        seed (int | None): Seed of the splits. Defaults to ``None``.

    Raises:
        ValueError: If the digit is unknown.

    Example:
        >>> datamodule = OneClassMNIST(normal_class=8)
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> len(datamodule.train_data), len(datamodule.test_data)
        (5851, 10000)
    """

    classes = tuple("0123456789")

    def __init__(
        self,
        root: Path | str = "./datasets/MNIST",
        normal_class: int = 0,
        train_batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            normal_class=normal_class,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            test_split_mode=test_split_mode,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Download MNIST unless the root has it or is to be an ``.npz`` file.

        Raises:
            FileNotFoundError: If MNIST is neither there nor can be downloaded.
        """
        if not self._is_npz:
            _read_torchvision(MNIST, self.root, Split.TRAIN, download=True)

    @property
    def _is_npz(self) -> bool:
        return self.root.suffix == ".npz"

    def _read(self, split: Split) -> LabelledImages:
        if self._is_npz:
            return self._label(*_read_npz(self.root, split), split)
        data = _read_torchvision(MNIST, self.root, split)
        return self._label(data.data.numpy(), data.targets, split)


class OneClassCIFAR10(OneClassDataModule):
    """CIFAR-10 with one normal class.

    Args:
        root (Path | str): A folder that ``torchvision.datasets.CIFAR10`` reads, which is the one above
            ``cifar-10-batches-py``; there the data are downloaded if they are missing. Or a folder of image files,
            ``train/<class name>/*.png`` and ``test/<class name>/*.png``; they may have any size.
            Defaults to ``"./datasets/CIFAR10"``.
        normal_class (int | str): The normal class, its index or one of ``airplane``, ``automobile``, ``bird``, ``cat``,
            ``deer``, ``dog``, ``frog``, ``horse``, ``ship`` and ``truck``. Defaults to ``0``.
        train_batch_size (int): Training batch size. Defaults to ``64``.
        eval_batch_size (int): Validation and test batch size. Defaults to ``256``.
        num_workers (int): Worker processes of each loader; 0 reads in the main process. Defaults to ``0``.
        train_augmentations (Transform | None): Augmentations of the training images. Defaults to ``None``.
        test_split_mode (TestSplitMode | str): Where the test images come from; the protocol's is
            ``TestSplitMode.FROM_DIR``, which is the whole official test set. Defaults to ``TestSplitMode.FROM_DIR``.
        val_split_mode (ValSplitMode | str): Where the validation images come from, with which the score is scaled and
            the threshold chosen. ``from_train`` leaves the test set unseen and takes images from training.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Share of the images that is used to validate, where they are split.
            Defaults to ``0.5``.
        seed (int | None): Seed of the splits. Defaults to ``None``.

    Raises:
        ValueError: If the class is unknown.

    Example:
        >>> datamodule = OneClassCIFAR10(normal_class="cat")
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> len(datamodule.train_data), len(datamodule.test_data)
        (5000, 10000)
    """

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(
        self,
        root: Path | str = "./datasets/CIFAR10",
        normal_class: int | str = 0,
        train_batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            normal_class=normal_class,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            test_split_mode=test_split_mode,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Download CIFAR-10 unless the root has it.

        Raises:
            FileNotFoundError: If CIFAR-10 is neither there nor can be downloaded.
        """
        if not self.has_files:
            _read_torchvision(CIFAR10, self.root, Split.TRAIN, download=True)

    @property
    def has_files(self) -> bool:
        """Whether each image is a file of its own."""
        return any((self.root / split).is_dir() for split in ("train", "test"))

    def _read(self, split: Split) -> LabelledImages:
        if self.has_files:
            classes = [self.category] if split == Split.TRAIN else self.classes
            paths = {name: _list_images(self.root / split.value / name) for name in classes}
            labels = [self.classes.index(name) for name, files in paths.items() for _ in files]
            files = [path for files in paths.values() for path in files]
            images = [np.asarray(Image.open(path).convert("RGB")) for path in files]
            return LabelledImages(images, np.array(labels), [str(path) for path in files])
        data = _read_torchvision(CIFAR10, self.root, split)
        return self._label(data.data, data.targets, split)


def _read_torchvision(
    source: type[MNIST] | type[CIFAR10], root: Path, split: Split, download: bool = False
) -> MNIST | CIFAR10:
    try:
        return source(root, train=split == Split.TRAIN, download=download)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        msg = f"{root} does not hold {source.__name__} and it cannot be downloaded there ({reason}); give a root that "
        msg += f"torchvision.datasets.{source.__name__} reads, or one of the other forms that the documentation names."
        raise FileNotFoundError(msg) from error


def _read_npz(path: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read images, shape ``(N, H, W)``, and their classes, shape ``(N,)``, from an ``.npz`` file."""
    keys = (f"x_{split.value}", f"y_{split.value}")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = (file[key] for key in keys)
    except FileNotFoundError as error:
        msg = f"There is no file {path}; give the path of mnist.npz, or a folder to download MNIST to."
        raise FileNotFoundError(msg) from error
    except (KeyError, ValueError, EOFError, BadZipFile) as error:
        msg = f"{path} is no MNIST: it must be an .npz file with the arrays x_train, y_train, x_test and y_test, as "
        msg += f"Keras' mnist.npz is, but {keys[0]} and {keys[1]} cannot be read from it."
        raise ValueError(msg) from error
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        msg = f"{path} is no MNIST: {keys[0]} must be of shape (N, H, W) and uint8, and {keys[1]} of shape (N,), got "
        msg += f"{images.shape}, {images.dtype}, and {labels.shape}."
        raise ValueError(msg)
    if not np.isin(labels, range(10)).all():
        msg = f"{path} is no MNIST: the classes in {keys[1]} must be 0 to 9, got {labels.min()} to {labels.max()}."
        raise ValueError(msg)
    return images, labels


def _list_images(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.png"))
    if not paths:
        msg = f"There are no images in {folder}; a root of image files needs train/<class name>/*.png of the normal "
        msg += "class and test/<class name>/*.png of all ten classes."
        raise FileNotFoundError(msg)
    return paths

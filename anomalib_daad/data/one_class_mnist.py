# SPDX-License-Identifier: Apache-2.0

"""MNIST with one normal digit."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from numpy.typing import NDArray
from torchvision.datasets import MNIST
from torchvision.transforms.v2 import Transform

from .one_class import LabelledImages, OneClassDataModule, read_torchvision


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
            read_torchvision(MNIST, self.root, Split.TRAIN, download=True)

    @property
    def _is_npz(self) -> bool:
        return self.root.suffix == ".npz"

    def _read(self, split: Split) -> LabelledImages:
        if self._is_npz:
            return self._label(*_read_npz(self.root, split), split)
        data = read_torchvision(MNIST, self.root, split)
        return self._label(data.data.numpy(), data.targets, split)


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

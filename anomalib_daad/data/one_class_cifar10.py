# SPDX-License-Identifier: Apache-2.0

"""CIFAR-10 with one normal class."""

from pathlib import Path

import numpy as np
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.transforms.v2 import Transform

from .one_class import LabelledImages, OneClassDataModule, read_torchvision


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
            read_torchvision(CIFAR10, self.root, Split.TRAIN, download=True)

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
        data = read_torchvision(CIFAR10, self.root, split)
        return self._label(data.data, data.targets, split)


def _list_images(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.png"))
    if not paths:
        msg = f"There are no images in {folder}; a root of image files needs train/<class name>/*.png of the normal "
        msg += "class and test/<class name>/*.png of all ten classes."
        raise FileNotFoundError(msg)
    return paths

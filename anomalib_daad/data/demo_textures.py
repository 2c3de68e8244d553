# SPDX-License-Identifier: Apache-2.0

"""Demo data: real textures with drawn defects, in MVTec AD's folder layout, without a download.

The good images are crops of the photographs of brick, grass and gravel that ship with scikit-image (CC0). Training
crops come from the left of a photograph, half of them mirrored, and test crops from its right; the two share no pixel.
A category is generated once, always the same, and then read as MVTec AD is; it is an example of the layout that your
own data need::

    DemoTextures/
    └── brick/
        ├── train/good/000.png ...
        ├── test/good/000.png ...
        ├── test/<defect>/000.png ...
        └── ground_truth/<defect>/000_mask.png ...

The data show that everything runs; they are too few and too easy to compare models with.

Example:
    >>> from anomalib_daad import DemoTextures
    >>> datamodule = DemoTextures(category="brick")
    >>> datamodule.prepare_data()
    >>> datamodule.setup()
    >>> next(iter(datamodule.train_dataloader())).image.shape
    torch.Size([8, 3, 128, 128])
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from skimage import data, io
from torchvision.transforms.v2 import Transform

from .drawn_defects import CROP_SIZE, DEFECTS, ByteImage, blend

CATEGORIES = ("brick", "grass", "gravel")
# Grass and gravel are of the same gray level: a patch of one in the other is hard for a person to see.
PATCH_SOURCE = {"brick": "gravel", "grass": "brick", "gravel": "brick"}
SPLIT_COLUMN = 304
NUM_TRAIN = 100
NUM_GOOD = 30
NUM_PER_DEFECT = 10
SEED = 2025


class DemoTextures(AnomalibDataModule):
    """Datamodule of the demo textures.

    Each category has 100 good images to train on, and 30 good and 40 defective ones to test on (10 each of ``scratch``,
    ``hole``, ``stain`` and ``swapped_patch``) with masks; 128x128 pixels, gray. They lie in ``<root>/<category>``,
    which takes about 3 MB; a folder that is there already is used as it is.

    Args:
        root (Path | str | None): Folder of the categories; None for anomalib's own data folder.
            Defaults to ``"./datasets/DemoTextures"``.
        category (str): ``"brick"``, ``"grass"`` or ``"gravel"``. Defaults to ``"brick"``.
        train_batch_size (int): Training batch size. Defaults to ``8``.
        eval_batch_size (int): Validation and test batch size. Defaults to ``32``.
        num_workers (int): Worker processes of each loader; 0 reads in the main process. Defaults to ``0``.
        augmentations (Transform | None): Augmentations of all images. Defaults to ``None``.
        test_split_mode (TestSplitMode | str): Where the test images come from.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float): Share of the images that is used to test, where they are split. Defaults to ``0.2``.
        val_split_mode (ValSplitMode | str): Where the validation images come from.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Share of the images that is used to validate, where they are split.
            Defaults to ``0.5``.
        seed (int | None): Seed of the splits; the images do not depend on it. Defaults to ``None``.

    Raises:
        ValueError: If the category is unknown.

    Example:
        >>> datamodule = DemoTextures(root="./datasets/DemoTextures", category="gravel")
        >>> datamodule.setup()
        >>> batch = next(iter(datamodule.test_dataloader()))
        >>> batch.image.shape, batch.gt_mask.shape
        (torch.Size([32, 3, 128, 128]), torch.Size([32, 128, 128]))
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/DemoTextures",
        category: str = "brick",
        train_batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        if category not in CATEGORIES:
            msg = f"category must be one of {', '.join(CATEGORIES)}, got {category!r}."
            raise ValueError(msg)
        self.root = resolve_dataset_root(root, "DemoTextures")
        self.category = category

    def prepare_data(self) -> None:
        """Generate the category unless its folder is there.

        Raises:
            OSError: If the folder cannot be written.
            FileNotFoundError: If the folder is there but lacks images.
        """
        folder = self.root / self.category
        if not folder.is_dir():
            _write(folder, _make_images(self.category))
        _check_complete(folder)

    def _setup(self, _stage: str | None = None) -> None:
        """Read the category, which is generated first where ``prepare_data`` was not called.

        Args:
            _stage (str | None): Stage; not used, every subset is made at once. Defaults to ``None``.
        """
        self.prepare_data()
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)


def _write(folder: Path, images: Iterator[tuple[str, ByteImage]]) -> None:
    """Write the images of a category, so that its folder is there either whole or not at all.

    Args:
        folder (Path): Folder of the category.
        images (Iterator[tuple[str, ByteImage]]): Path in the folder and image, shape ``(H, W)``, uint8.

    Raises:
        OSError: If the folder cannot be written, unless another process has written it meanwhile.
    """
    made = list(images)
    temporary = folder.parent / f".{folder.name}-{uuid4().hex}"
    try:
        for name, image in made:
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            io.imsave(path, image, check_contrast=False)
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            msg = (
                f"Cannot write the demo data to {folder} ({error.strerror or error}); it must lie in a writable folder "
                "with 5 MB free: make it so, or give another root."
            )
            raise OSError(msg) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_complete(folder: Path) -> None:
    """Refuse a folder that lacks images, for instance after a copy that was cut short.

    Args:
        folder (Path): Folder of the category.

    Raises:
        FileNotFoundError: If a subfolder has fewer images than were written.
    """
    for name, expected in _count_images().items():
        found = len(list((folder / name).glob("*.png")))
        if found < expected:
            msg = (
                f"{folder} is no complete demo data: {name} has {found} images, expected {expected}; delete the folder "
                "to have it written again, or give another root."
            )
            raise FileNotFoundError(msg)


def _count_images() -> dict[str, int]:
    """Number of images in each subfolder of a category."""
    counts = {"train/good": NUM_TRAIN, "test/good": NUM_GOOD}
    for defect in DEFECTS:
        counts[f"test/{defect}"] = counts[f"ground_truth/{defect}"] = NUM_PER_DEFECT
    return counts


def _make_images(category: str) -> Iterator[tuple[str, ByteImage]]:
    """Make all images and masks of a category, the same ones each time.

    Args:
        category (str): One of ``CATEGORIES``.

    Yields:
        tuple[str, ByteImage]: Path in the category's folder and image, shape ``(128, 128)``, uint8.
    """
    rng = np.random.default_rng([SEED, CATEGORIES.index(category)])
    photograph = getattr(data, category)()
    other_photograph = getattr(data, PATCH_SOURCE[category])()
    for index in range(NUM_TRAIN):
        crop = _random_crop(rng, photograph[:, :SPLIT_COLUMN])
        # Mirrored, the left of the bricks leans as their right does: the photograph is in perspective.
        yield f"train/good/{index:03d}.png", crop[:, ::-1] if rng.random() < 0.5 else crop
    for index in range(NUM_GOOD):
        yield f"test/good/{index:03d}.png", _random_crop(rng, photograph[:, SPLIT_COLUMN:])
    for defect, draw in DEFECTS.items():
        for index in range(NUM_PER_DEFECT):
            crop = _random_crop(rng, photograph[:, SPLIT_COLUMN:])
            other = _random_crop(rng, other_photograph)
            image, mask = blend(crop, *draw(rng, crop.astype(np.float64), other.astype(np.float64)))
            yield f"test/{defect}/{index:03d}.png", image
            yield f"ground_truth/{defect}/{index:03d}_mask.png", mask


def _random_crop(rng: np.random.Generator, photograph: ByteImage) -> ByteImage:
    """Cut a crop at a random position.

    Args:
        rng (np.random.Generator): Source of the position.
        photograph (ByteImage): Image, shape ``(H, W)``, at least 128x128.

    Returns:
        ByteImage: Crop, shape ``(128, 128)``.
    """
    top, left = (int(rng.integers(side - CROP_SIZE + 1)) for side in photograph.shape)
    return photograph[top : top + CROP_SIZE, left : left + CROP_SIZE]

# SPDX-License-Identifier: Apache-2.0

"""Images to inspect a model on: the test images of a category in MVTec AD's layout, or a folder of images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataset, MVTecAD, PredictDataset

from anomalib_daad.data.ascii_links import ascii_link
from anomalib_daad.data.mvtec_layout import MASK_FOLDERS, find_categories

GOOD = "good"


class InspectedImage(NamedTuple):
    """An image and what is known of it.

    Attributes:
        name (str): Its folder and file name, such as ``"broken_large/000.png"``.
        pixels (torch.Tensor): Shape ``(3, H, W)``, in [0, 1].
        defective (bool | None): None where nobody says.
        mask (torch.Tensor | None): The defect's pixels, boolean, shape ``(H, W)``; None where there is no mask.
    """

    name: str
    pixels: torch.Tensor
    defective: bool | None
    mask: torch.Tensor | None


class InspectedImages(Sequence[InspectedImage]):
    """Images that are read from their files one by one.

    Args:
        data (Path): Root of data in MVTec AD's layout, with a category; without one, a folder of images. What lies in
            its folder ``good`` is labelled good, what lies in other folders defective; folders of masks are left out.
            Without a folder ``good``, images have no labels.
        category (str | None): Name of the category.

    Raises:
        ValueError: If there is no such folder, or it does not hold what it should.
    """

    def __init__(self, data: Path, category: str | None) -> None:
        if not data.is_dir():
            msg = f"There is no folder {data}: --data must name a root in MVTec AD's layout or a folder of images."
            raise ValueError(msg)
        self._items = _read_folder(data) if category is None else _read_category(data, category)
        self._is_category = category is not None
        self._folder = data.resolve() if category is None and (data / GOOD).is_dir() else None

    @property
    def has_good(self) -> bool:
        """Whether some images are known to be good."""
        return self._is_category or self._folder is not None

    def __len__(self) -> int:
        """Count the images."""
        return len(self._items)

    def __getitem__(self, index: int) -> InspectedImage:  # type: ignore[override]  # no slices
        """Read an image.

        Args:
            index (int): Index of the image.

        Returns:
            InspectedImage: The image.
        """
        item: Any = self._items[index]
        path = Path(str(item.image_path))
        defective = self._by_folder(path) if item.gt_label is None else bool(item.gt_label)
        mask = None if item.gt_mask is None else torch.as_tensor(item.gt_mask).squeeze() > 0
        return InspectedImage(f"{path.parent.name}/{path.name}", torch.as_tensor(item.image), defective, mask)

    def _by_folder(self, path: Path) -> bool | None:
        """Whether an image is defective by the folder that it lies in; None where nothing says so."""
        if self._folder is None or path.parent == self._folder:
            return None
        return path.relative_to(self._folder).parts[0] != GOOD

    def __iter__(self) -> Iterator[InspectedImage]:
        """Read the images in order."""
        return (self[index] for index in range(len(self)))


def _read_category(root: Path, category: str) -> AnomalibDataset:
    if not (root / category).is_dir():
        found = ", ".join(find_categories(root)) or "none"
        msg = f"There is no category {category} in {root}; found: {found}."
        raise ValueError(msg)
    try:
        link = ascii_link(root / category)
        datamodule = MVTecAD(link.parent, link.name, num_workers=0, val_split_mode="none", seed=0)
        datamodule.setup()
        images = datamodule.test_data
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(_not_in_layout(root / category)) from error
    if not len(images):
        raise ValueError(_not_in_layout(root / category))
    return images


def _not_in_layout(folder: Path) -> str:
    return (
        f"{folder} is not in MVTec AD's layout: it must hold images in train/good, test/good and test/DEFECT, and a "
        f"mask in ground_truth/DEFECT for each defective one; without masks, use --data FOLDER alone."
    )


def _read_folder(folder: Path) -> PredictDataset:
    if (folder / "train" / "good").is_dir():
        name = folder.resolve().name
        msg = f"{folder} is a category in MVTec AD's layout: use --data {folder.resolve().parent} --category {name}."
        raise ValueError(msg)
    if categories := find_categories(folder):
        msg = f"{folder} holds the categories {', '.join(categories)}: choose one with --category."
        raise ValueError(msg)
    try:
        images = PredictDataset(ascii_link(folder))
    except ValueError as error:
        msg = f"There are no images in {folder}: --data must name a root in MVTec AD's layout or a folder of images."
        raise ValueError(msg) from error
    masks = [folder.resolve() / name for name in MASK_FOLDERS]
    images.image_filenames = [
        path for path in images.image_filenames if not any(path.is_relative_to(mask) for mask in masks)
    ]
    return images

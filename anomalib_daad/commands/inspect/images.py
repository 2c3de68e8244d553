# SPDX-License-Identifier: Apache-2.0

"""Images to inspect a model on: the test images of a category in MVTec AD's layout, or a folder of images."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataset, MVTecAD, PredictDataset

from anomalib_daad.data.mvtec_layout import find_categories


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
        data (Path): Root of data in MVTec AD's layout, with a category; without one, a folder of images.
        category (str | None): Name of the category.

    Raises:
        ValueError: If there is no such folder, or it does not hold what it should.
    """

    def __init__(self, data: Path, category: str | None) -> None:
        if not data.is_dir():
            msg = f"There is no folder {data}: --data must name a root in MVTec AD's layout or a folder of images."
            raise ValueError(msg)
        self._items = _read_folder(data) if category is None else _read_category(data, category)

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
        defective = None if item.gt_label is None else bool(item.gt_label)
        mask = None if item.gt_mask is None else torch.as_tensor(item.gt_mask).squeeze() > 0
        return InspectedImage(f"{path.parent.name}/{path.name}", torch.as_tensor(item.image), defective, mask)

    def __iter__(self) -> Iterator[InspectedImage]:
        """Read the images in order."""
        return (self[index] for index in range(len(self)))


def _read_category(root: Path, category: str) -> AnomalibDataset:
    if not (root / category).is_dir():
        found = ", ".join(find_categories(root)) or "none"
        msg = f"There is no category {category} in {root}; found: {found}."
        raise ValueError(msg)
    try:
        with _link_to(root / category) as link:
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
        with _link_to(folder) as link:
            return PredictDataset(link)
    except ValueError as error:
        msg = f"There are no images in {folder}: --data must name a root in MVTec AD's layout or a folder of images."
        raise ValueError(msg) from error


@contextmanager
def _link_to(folder: Path) -> Iterator[Path]:
    """Link to a folder: anomalib refuses paths that are not ASCII, and follows links to them."""
    if str(folder.absolute()).isascii():
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / "images"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link

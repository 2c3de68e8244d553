# SPDX-License-Identifier: Apache-2.0

"""Folders that do not hold what a datamodule wants are named before anomalib downloads or reads anything.

For a category that it does not find, anomalib's MVTecAD sets out on a download of 5 GB, which would not bring a
misspelt one either. Where a mask is missing, the error is one of pandas.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data import Folder, MVTecAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES
from anomalib.data.utils.image import IMG_EXTENSIONS
from anomalib.data.utils.path import resolve_path

from .mvtec_layout import find_categories


def check_folders(datamodule: Any) -> None:
    """Refuse folders of which anomalib could make no data set.

    Args:
        datamodule (Any): Datamodule that is not set up yet; any but anomalib's MVTecAD and Folder passes.

    Raises:
        ValueError: If the category is neither there nor one to download, or if a defective image has no mask.
    """
    if isinstance(datamodule, MVTecAD):
        folder = datamodule.root / datamodule.category
        _refuse_unknown_category(datamodule.root, datamodule.category)
        tested = _images([folder / "test"], IMG_EXTENSIONS)
        masks = _images([folder / "ground_truth"], IMG_EXTENSIONS)
        _refuse_missing_masks([it for it in tested if it.parent.name != "good"], masks, folder / "ground_truth")
    elif isinstance(datamodule, Folder) and datamodule.mask_dir and datamodule.abnormal_dir:
        endings = [case(it) for it in datamodule.extensions or IMG_EXTENSIONS for case in (str.lower, str.upper)]
        defects, masks = (_resolved(it, datamodule.root) for it in (datamodule.abnormal_dir, datamodule.mask_dir))
        _refuse_missing_masks(_images(defects, endings), _images(masks, endings), masks[0])


def _refuse_unknown_category(root: Path, category: str) -> None:
    if category in CATEGORIES or (root / category).is_dir():
        return
    there = find_categories(root) if root.is_dir() else []
    named = f"there are {', '.join(there)}; give one of them" if there else "there is none; give another root"
    msg = f"There is no category {category} in {root}, and MVTec AD has none of that name: {named}."
    raise ValueError(msg)


def _refuse_missing_masks(images: list[Path], masks: list[Path], folder: Path) -> None:
    if len(images) == len(masks):  # anomalib looks whether their names fit
        return
    stems = [(mask.parent.name, mask.stem) for mask in masks]
    places = {path.parent.name for path in masks} & {path.parent.name for path in images}  # a folder for each defect

    def has_mask(image: Path) -> bool:
        return any(image.stem in stem and (not places or place == image.parent.name) for place, stem in stems)

    without = [image for image in images if not has_mask(image)]
    which = f"{without[0]} has none" if without else "some masks have no image"
    msg = f"There are {len(images)} defective images and {len(masks)} masks in {folder}: {which}; every defective "
    msg += "image needs one mask, 000_mask.png or 000.png for 000.png."
    raise ValueError(msg)


def _images(folders: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    files = (path for folder in folders for path in folder.rglob("*"))
    return sorted(path for path in files if path.suffix in endings)


def _resolved(folders: Any, root: Any) -> list[Path]:
    several = folders if isinstance(folders, Sequence) and not isinstance(folders, str) else [folders]
    return [resolve_path(folder, root) for folder in several]

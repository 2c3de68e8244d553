# SPDX-License-Identifier: Apache-2.0

"""Whether every defective image has a mask with sharp borders, in words that name the first that has none."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

_LOSSY = {".jpg", ".jpeg", ".webp"}


def refuse_masks_that_do_not_match(images: Path, masks: Path) -> None:
    """Compare two folders as anomalib pairs them: in order of the names, a mask's holding its image's.

    Args:
        images (Path): Folder of defective images, which exists.
        masks (Path): Folder of their masks; may not exist.

    Raises:
        ValueError: If an image has no mask, a mask no image, or a lossy format smeared a mask.
    """
    defective, drawn = _list_images(images), _list_images(masks)
    pairs = zip(defective, drawn, strict=False)
    if len(defective) == len(drawn) and all(image.stem in mask.stem for image, mask in pairs):
        _refuse_smeared(drawn)
        return
    msg = f"The masks in {masks} do not match the images in {images}: {_first_odd(defective, drawn)}."
    msg += " Each defective image needs one mask of its name, such as 1.png or 1_mask.png for 1.jpg."
    raise ValueError(msg)


def _refuse_smeared(masks: Sequence[Path]) -> None:
    for path in masks:
        if path.suffix.lower() not in _LOSSY:
            continue
        content = np.fromfile(path, np.uint8)
        mask = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if content.size else None
        if mask is not None and (values := len(np.unique(mask))) > 2:
            msg = f"The mask {path} has {values} gray values; anomalib takes all pixels above 0 for defective, so that "
            msg += "a mask smeared by its format grows. Save masks with two values, as PNG."
            raise ValueError(msg)


def _list_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)


def _first_odd(images: Sequence[Path], masks: Sequence[Path]) -> str:
    names = {image.stem for image in images}
    drawn = {mask.stem.removesuffix("_mask") for mask in masks}
    if missing := [image.name for image in images if image.stem not in drawn]:
        return f"{missing[0]} has no mask ({len(images)} images, {len(masks)} masks)"
    if extra := [mask.name for mask in masks if mask.stem.removesuffix("_mask") not in names]:
        return f"{extra[0]} has no image ({len(images)} images, {len(masks)} masks)"
    return "sorted by their names, images and masks do not stand in the same order"

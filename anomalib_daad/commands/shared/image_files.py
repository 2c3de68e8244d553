# SPDX-License-Identifier: Apache-2.0

"""Image files that a user gives: which there are, and what is in them, as training reads it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from anomalib.data.utils.image import is_image_file
from PIL import Image

from anomalib_daad.data.image_check import is_deep_gray, is_garbled, reading_fault
from anomalib_daad.error_message import first_line

logger = logging.getLogger(__name__)


def find_images(images: Path) -> tuple[list[Path], Path]:
    """Find image files.

    Args:
        images (Path): Image, or a folder that is searched with all its subfolders.

    Returns:
        tuple[list[Path], Path]: Image files in the order of their names, and the folder that they are named below.

    Raises:
        ValueError: If there is none.
    """
    if images.is_file():
        return [images], images.parent
    if not images.is_dir():
        msg = f"There is no image or folder {images}."
        raise ValueError(msg)
    files = sorted(path for path in images.rglob("*") if path.is_file() and is_image_file(path))
    if not files:
        msg = f"There are no images in {images}: give a folder with PNG, JPEG, BMP or TIFF files."
        raise ValueError(msg)
    return files, images


def readable_images(folder: Path) -> list[Path]:
    """Find the image files of a folder that can be read, and name the others in warnings.

    Args:
        folder (Path): Folder that is searched with all its subfolders.

    Returns:
        list[Path]: Image files in the order of their names, at least one.

    Raises:
        ValueError: If there is none.
    """
    files, _ = find_images(folder)
    with ThreadPoolExecutor() as pool:
        faults = dict(zip(files, pool.map(reading_fault, files), strict=True))
    for path, fault in faults.items():
        if fault:
            logger.warning("%s is left out: %s", path, fault)
    readable = [path for path in files if not faults[path]]
    if not readable:
        msg = f"None of the {len(files)} images in {folder} can be read, the first for this reason: {faults[files[0]]}."
        raise ValueError(msg)
    return readable


def read_pixels(path: Path) -> np.ndarray:
    """Read an image as training reads it.

    Args:
        path (Path): Image file.

    Returns:
        np.ndarray: RGB in [0, 1], shape ``(H, W, 3)``, float32.

    Raises:
        ValueError: If training would refuse it; the message does not name the file.
    """
    try:
        with Image.open(path) as image:
            is_deep = is_deep_gray(image) or is_garbled(image)
            pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    except Exception as error:  # what Pillow raises on a bad file is not one family
        raise ValueError(first_line(error)) from error
    if is_deep:
        msg = "more than 8 bits a pixel: save it with 8 bits, scaled as the training images were"
        raise ValueError(msg)
    return pixels

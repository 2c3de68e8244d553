# SPDX-License-Identifier: Apache-2.0

"""Pictures as parts of a page, which then needs no other file."""

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

QUALITY = 80  # of JPEG: less shows blocks in smooth surfaces
_SIDES = {150: 448, 300: 320}  # pixels of a picture, by how many there are, so that a page stays below 5 MB
_SMALLEST = 224


class View(NamedTuple):
    """A picture of an image.

    Attributes:
        what (str): What it shows of it, such as ``"what is odd"``.
        address (str): Address that holds the picture.
    """

    what: str
    address: str


def side_of(count: int) -> int:
    """Choose the size of the pictures of a page.

    Args:
        count (int): Number of pictures.

    Returns:
        int: Pixels of the longer side of each.
    """
    return next((side for most, side in _SIDES.items() if count <= most), _SMALLEST)


def for_outlines(image: np.ndarray, side: int) -> np.ndarray:
    """Bring an image to a size at which outlines drawn into it are smooth and as wide as in any other.

    Args:
        image (np.ndarray): RGB in [0, 1], shape ``(H, W, 3)``.
        side (int): Pixels of the longer side on the page.

    Returns:
        np.ndarray: Twice as large as on the page.
    """
    height, width = image.shape[:2]
    scale = 2 * side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)).clip(
        0, 1
    )


def embed(picture: np.ndarray, side: int) -> str:
    """Make a picture part of a page.

    Args:
        picture (np.ndarray): RGB, in [0, 1] or uint8, shape ``(H, W, 3)``.
        side (int): Pixels of its longer side at most.

    Returns:
        str: Address that holds the picture as JPEG.
    """
    pixels = picture if picture.dtype == np.uint8 else (255 * picture).round().clip(0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + b64encode(encoded.tobytes()).decode()


def embed_png(path: Path) -> str:
    """Make a PNG file part of a page.

    Args:
        path (Path): File.

    Returns:
        str: Address that holds it.
    """
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()

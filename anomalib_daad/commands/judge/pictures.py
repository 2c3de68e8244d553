# SPDX-License-Identifier: Apache-2.0

"""Where an image is oddest, and pictures as parts of a page."""

from base64 import b64encode

import cv2
import numpy as np

QUALITY = 78


def strongest(anomaly_map: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Find the strongest point of a map.

    Args:
        anomaly_map (np.ndarray): Shape ``(h, w)``.
        size (tuple[int, int]): Height and width of the image that it is of.

    Returns:
        tuple[int, int]: Column and row in the image.
    """
    row, column = np.unravel_index(int(np.nan_to_num(anomaly_map, nan=-np.inf).argmax()), anomaly_map.shape)
    (height, width), (rows, columns) = size, anomaly_map.shape
    return int((column + 0.5) * width / columns), int((row + 0.5) * height / rows)


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

# SPDX-License-Identifier: Apache-2.0

"""Pictures of a judged image: itself, what the model expected, and where it is defective."""

from base64 import b64encode

import cv2
import numpy as np

THRESHOLD = 0.5  # of anomalib's normalised scores and maps
_FROM, _TO, _STRONGEST = 0.35, 0.75, 0.6  # of a map: where colour begins and where it is strongest, and how strong
_PALE, _DEEP = np.array([255.0, 200.0, 60.0]), np.array([213.0, 40.0, 0.0])  # RGB
QUALITY = 78


def highlight(image: np.ndarray, anomaly_map: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Colour an image where it is odd, and outline what is beyond the threshold; a good image stays as it is.

    Args:
        image (np.ndarray): RGB in [0, 1], shape ``(H, W, 3)``.
        anomaly_map (np.ndarray): Scaled so that 0.5 is the threshold of pixels, shape ``(h, w)``.
        threshold (float): Of the outline. Defaults to ``0.5``.

    Returns:
        np.ndarray: RGB in [0, 255], uint8, shape ``(H, W, 3)``.
    """
    height, width = image.shape[:2]
    heat = cv2.resize(np.nan_to_num(anomaly_map, posinf=1.0), (width, height), interpolation=cv2.INTER_LINEAR)
    strength = np.clip((heat - _FROM) / (_TO - _FROM), 0, 1)[..., None]
    colour = _PALE + (_DEEP - _PALE) * strength
    shown = 255 * image * (1 - _STRONGEST * strength) + colour * _STRONGEST * strength
    drawn = np.ascontiguousarray(shown.clip(0, 255).astype(np.uint8))
    outlines = cv2.findContours((heat > threshold).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    thickness = max(1, round(max(height, width) / 200))
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 3 * thickness)
    cv2.drawContours(drawn, outlines, -1, (200, 0, 0), thickness)
    return drawn


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

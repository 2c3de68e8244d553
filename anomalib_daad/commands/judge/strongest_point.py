# SPDX-License-Identifier: Apache-2.0

"""Where an image is oddest."""

import numpy as np


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

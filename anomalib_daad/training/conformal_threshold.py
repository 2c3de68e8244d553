# SPDX-License-Identifier: Apache-2.0

"""Thresholds by split conformal prediction, as numbers alone: also for programs without PyTorch.

Example:
    >>> import numpy as np
    >>> scores = np.arange(1.0, 20.0)
    >>> round(float(threshold(scores, 0.1)), 3), promised_rate(len(scores), 0.1), images_for(0.01)
    (18.017, 0.1, 99)
"""

import math
from typing import Any, NamedTuple

import numpy as np

MOST_SCORES = 1000  # that a model keeps of good images
SIDE = 64  # of the grid of pixels that is kept of a map
# Times the spread of good scores, which the threshold lies above the score that sets it: runtimes differ in the last
# digits, and no verdict on that image may hang on them.
MARGIN = 1e-3
HEADROOM = 4.0  # times the spread of good scores, beyond the threshold, before a score without peers ends at 1


class Rates(NamedTuple):
    """What may be rejected.

    Attributes:
        images (float): Share of good images, in (0, 1).
        pixels (float): Share of good images' pixels, in (0, 1).
    """

    images: float
    pixels: float


def threshold(ordered: np.ndarray, rate: float) -> Any:
    """Take the threshold that a share of good images exceeds at most.

    Args:
        ordered (np.ndarray): Scores of good images in rising order, at least one, shape ``(n,)``.
        rate (float): Share of good images that may be rejected, in (0, 1).

    Returns:
        Any: The threshold, a number of the scores' type.
    """
    decisive = ordered[_rank(len(ordered), rate) - 1]
    return decisive + MARGIN * (decisive - ordered[0])


def pixel_threshold(values: np.ndarray, rate: float) -> Any:
    """Take the threshold that a share of good images' pixels exceeds at most.

    Args:
        values (np.ndarray): Pixels of their maps, at least one, of any shape.
        rate (float): Share of pixels that may be marked, in (0, 1).

    Returns:
        Any: The threshold, a number of the pixels' type.
    """
    rank = max(1, math.ceil(values.size * (1 - rate)))
    return np.partition(values, rank - 1, axis=None)[rank - 1]


def promised_rate(count: int, rate: float) -> float:
    """Tell what a threshold promises.

    Args:
        count (int): Good images that it is from.
        rate (float): Share of good images that may be rejected.

    Returns:
        float: Share of good images that it rejects at most, on average; NaN of no image.
    """
    return (count + 1 - _rank(count, rate)) / (count + 1) if count else math.nan


def images_for(rate: float) -> int:
    """Tell how many good images it takes to promise a rate.

    Args:
        rate (float): Share of good images that may be rejected, in (0, 1).

    Returns:
        int: The fewest.
    """
    return math.ceil(1 / rate - 1e-9) - 1


def representatives(ordered: np.ndarray) -> np.ndarray:
    """Choose some scores that stand for all.

    Args:
        ordered (np.ndarray): Scores in rising order, shape ``(n,)``.

    Returns:
        np.ndarray: At most 1000 of them, evenly spaced, in rising order.
    """
    return ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_SCORES)).round().astype(int)]


def grid(maps: Any) -> Any:
    """Keep some pixels of maps, evenly spaced.

    Args:
        maps (Any): Array or tensor of shape ``(n, H, W)`` or ``(n, 1, H, W)``.

    Returns:
        Any: At most 127 x 127 pixels of each, in a row for each map.
    """
    rows, columns = (max(1, side // SIDE) for side in maps.shape[-2:])
    kept = maps[..., rows // 2 :: rows, columns // 2 :: columns]
    return kept.reshape(len(maps), kept.shape[-2] * kept.shape[-1])


def headroom(low: Any, threshold_: Any) -> Any:
    """Tell where a scale should end that no defect has set the end of.

    Args:
        low (Any): Smallest score of good images, a number or a tensor.
        threshold_ (Any): Threshold, likewise.

    Returns:
        Any: Score, likewise.
    """
    return threshold_ + HEADROOM * (threshold_ - low)


def refuse_other_rates(**rates: float) -> None:
    """Refuse rates that are none.

    Args:
        rates (float): Rates by their names.

    Raises:
        ValueError: If one is not in (0, 1).
    """
    for name, rate in rates.items():
        if not 0 < rate < 1:
            msg = f"{name} must be between 0 and 1, such as 0.01 for 1 of 100 good images; got {rate}."
            raise ValueError(msg)


def _rank(count: int, rate: float) -> int:
    """Rank of the score, from 1 for the smallest, that a share of good images exceeds at most."""
    return min(count, count + 1 - math.floor((count + 1) * rate + 1e-9))

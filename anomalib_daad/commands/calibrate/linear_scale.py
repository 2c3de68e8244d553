# SPDX-License-Identifier: Apache-2.0

"""How an export's scores are scaled, and how they are scaled anew. Without PyTorch.

An export ends in ``clip(v, 0, 1)`` with ``v = (x - threshold) / range + 0.5``. A calibration puts ``a v + b`` in v's
place: the new threshold lies where the old one was, so that verdicts follow, and good scores keep some room below it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from anomalib_daad.training.conformal_threshold import (
    Rates,
    grid,
    headroom,
    pixel_threshold,
    promised_rate,
    representatives,
    threshold,
)

from .outcome import Outcome

SCORE, MAP = "pred_score", "anomaly_map"  # what is scaled
VERDICTS = {SCORE: "pred_label", MAP: "pred_mask"}
TOLERANCE = 1e-3  # of 0 to 1, by which what is clipped may differ from the score: some runtimes round
_FOREIGN = "it is no export of a model of this package with thresholds: {}. Export a trained model again."


def added_names(output: str) -> list[str]:
    """Name what a calibration adds to a graph, so that the next one finds it.

    Args:
        output (str): Output that is scaled.

    Returns:
        list[str]: Names of the factor and of the offset.
    """
    return [f"anomalib_daad_calibration_{part}_{output}" for part in ("factor", "offset")]


class Scale(NamedTuple):
    """A linear function of values.

    Attributes:
        factor (float): Positive.
        offset (float): Added after.
    """

    factor: float
    offset: float

    def __call__(self, values: Any) -> Any:
        """Scale values."""
        return self.factor * values + self.offset

    def after(self, first: "Scale") -> "Scale":
        """One scale that does what another and then this one do.

        Args:
            first (Scale): The other.

        Returns:
            Scale: Both.
        """
        return Scale(self.factor * first.factor, self(first.offset))


class Outputs(NamedTuple):
    """What an export says of an image.

    Attributes:
        score (float): Score, in [0, 1].
        linear_score (float): The same before it was clipped.
        linear_map (np.ndarray): Anomaly map before it was clipped, shape ``(1, 1, H, W)``.
        anomaly_map (np.ndarray): In [0, 1], same shape.
        is_defective (bool): Verdict.
    """

    score: float
    linear_score: float
    linear_map: np.ndarray
    anomaly_map: np.ndarray
    is_defective: bool


class Measured(NamedTuple):
    """What good images say of an export.

    Attributes:
        scales (dict[str, Scale]): How score and map are to be scaled anew.
        good_scores (np.ndarray): Scores of good images, scaled anew, in rising order, at most 1000.
        outcome (Outcome): What is told of it.
    """

    scales: dict[str, Scale]
    good_scores: np.ndarray
    outcome: Outcome


def measure(
    run: Callable[[np.ndarray], Outputs], images: Iterable[np.ndarray], limits: dict[str, float], rates: Rates
) -> Measured:
    """Take the thresholds of an export from good images, by the formula of the package's post-processor.

    The scale stays as wide as it is, or becomes wide enough for four times the spread of good scores above the
    threshold.

    Args:
        run (Callable[[np.ndarray], Outputs]): The export: takes an image, shape ``(1, 3, H, W)``.
        images (Iterable[np.ndarray]): Good images, RGB in [0, 1], shape ``(H, W, 3)``.
        limits (dict[str, float]): Scores above which the export's verdict is defective, of score and map.
        rates (Rates): What may be rejected.

    Returns:
        Measured: How to scale them anew.

    Raises:
        ValueError: If the export's scores are not what was clipped, or no image can be judged.
    """
    scores, pixels, lows, rejected = [], [], [], 0
    for image in images:
        found = run(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))
        _refuse_other_scores(found)
        if np.isfinite(found.linear_score):
            scores.append(np.float32(found.linear_score))
            pixels.append(grid(found.linear_map))
            lows.append(float(found.linear_map.min()))
            rejected += found.is_defective
    if not scores:
        msg = "None of the good images can be judged: their scores are not finite."
        raise ValueError(msg)
    ordered = np.sort(np.array(scores))
    highest = float(threshold(ordered, rates.images))
    scales = {
        SCORE: _scale(float(ordered[0]), highest, limits[SCORE]),
        MAP: _scale(min(lows), float(pixel_threshold(np.concatenate(pixels), rates.pixels)), limits[MAP]),
    }
    kept = np.clip(scales[SCORE](representatives(ordered)), 0, 1)
    return Measured(scales, kept, Outcome(limits[SCORE], highest, rejected, len(ordered)))


def _scale(low: float, highest: float, limit: float) -> Scale:
    factor = 1 / max(1.0, headroom(low, highest) - low)
    return Scale(factor, limit - factor * highest)


def _refuse_other_scores(found: Outputs) -> None:
    pairs = ((found.score, found.linear_score), (found.anomaly_map, found.linear_map))
    if not all(np.allclose(said, np.clip(linear, 0, 1), atol=TOLERANCE) for said, linear in pairs):
        raise ValueError(_FOREIGN.format("its scores are not scaled to [0, 1] with a threshold"))


def one_of(found: list[Any], what: str) -> Any:
    """Take the only one of what was found in a graph.

    Args:
        found (list[Any]): What was found.
        what (str): What was looked for, in the plural.

    Returns:
        Any: It.

    Raises:
        ValueError: If there is none, or more than one.
    """
    if len(found) != 1:
        raise ValueError(_FOREIGN.format(f"where one was expected, its graph has {len(found)} {what}"))
    return found[0]


def describe(description: dict[str, Any], measured: Measured, limits: dict[str, float], rates: Rates) -> dict[str, Any]:
    """Bring the description of an export up to date.

    Args:
        description (dict[str, Any]): Description of the export as it was.
        measured (Measured): What good images said.
        limits (dict[str, float]): Scores above which the export's verdict is defective, of score and map.
        rates (Rates): What may be rejected.

    Returns:
        dict[str, Any]: Description of the export as it is; what has nothing to do with thresholds is as it was, and so
        are the names and checksums of its files.
    """
    count = measured.outcome.judged
    raw: dict[str, float | None] = dict(description.get("raw") or {})
    for kind, name in (("image", SCORE), ("pixel", MAP)):
        middle, width, scale = raw.get(f"{kind}_threshold"), raw.get(f"{kind}_range"), measured.scales[name]
        if middle is None or width is None:
            continue
        raw[f"{kind}_threshold"] = middle + ((0.5 - scale.offset) / scale.factor - 0.5) * width
        raw[f"{kind}_range"] = width / scale.factor
    return {
        **description,
        "image_threshold": limits[SCORE],
        "pixel_threshold": limits[MAP],
        "false_alarm_rate": rates.images,
        "promised_rate": promised_rate(count, rates.images),
        "good_images": count,
        "raw": raw or None,
        "good_scores": [round(float(score), 7) for score in measured.good_scores],
    }

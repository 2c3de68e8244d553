# SPDX-License-Identifier: Apache-2.0

"""What a trial found: its scores, what they are worth and how sure that is, and what the model costs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from anomalib_daad.commands.shared.output_folder import Row, read_table
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.commands.shared.tally import Tally, count

from .measures import IMAGE_MEASURES, PixelCounts, auroc, interval, measure_images, on_resample
from .trial import Trial

MEASURES = ("auroc", "f1", "fpr95", "auroc_pixel", "aupro")
PIXEL_RESAMPLES = 200


@dataclass(frozen=True)
class Finding:
    """A finished trial.

    Attributes:
        trial (Trial): The trial.
        folder (Path): Its folder.
        images (list[str]): Paths of the test images, n of them.
        labels (np.ndarray): Whether each is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        facts (Row): What training and export said.
        measures (dict[str, float | None]): By the names in ``MEASURES``; None where it cannot be measured.
        intervals (dict[str, tuple[float, float] | None]): 95% intervals of the measures.
    """

    trial: Trial
    folder: Path
    images: list[str]
    labels: np.ndarray
    scores: np.ndarray
    facts: Row
    measures: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.trial.contestant.name

    @property
    def threshold(self) -> float | None:
        """Score above which an image is called defective."""
        return self.facts["threshold"]

    @property
    def tally(self) -> Tally | None:
        """What it judges rightly at the threshold; None without one."""
        return None if self.threshold is None else count(self.labels, self.scores > self.threshold)

    @property
    def kinds(self) -> list[str]:
        """Kind of each image: the folder that it lies in."""
        return [Path(image).parent.name for image in self.images]

    def maps(self) -> np.ndarray | None:
        """Read the anomaly maps.

        Returns:
            np.ndarray | None: Shape ``(n, H, W)``; None of a model without maps.
        """
        return self._read("maps")

    def masks(self) -> np.ndarray | None:
        """Read the masks.

        Returns:
            np.ndarray | None: Boolean, shape ``(n, H, W)``; None where there are none.
        """
        return self._read("masks")

    def _read(self, name: str) -> np.ndarray | None:
        path = self.folder / f"{name}.npy"
        return np.load(path) if path.exists() else None


def find(trial: Trial, folder: Path) -> Finding:
    """Judge a finished trial.

    Args:
        trial (Trial): Trial.
        folder (Path): Its folder.

    Returns:
        Finding: What it found.
    """
    rows = read_table(folder / "scores.csv")
    labels = np.array([row["label"] == "1" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    facts = json.loads((folder / "result.json").read_text())
    finding = Finding(trial, folder, [row["image"] for row in rows], labels, scores, facts, {}, {})
    if not np.isfinite(scores).all():
        finding.measures.update(dict.fromkeys(MEASURES))
        finding.intervals.update(dict.fromkeys(MEASURES))
        return finding
    finding.measures.update(measure_images(labels, scores, finding.threshold))
    for name, measure in IMAGE_MEASURES.items():
        finding.intervals[name] = interval(labels, on_resample(measure, labels, scores, finding.threshold))
    pixels, intervals = _judge_pixels(finding)
    finding.measures.update(pixels)
    finding.intervals.update(intervals)
    return finding


def _judge_pixels(
    finding: Finding,
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    maps, masks = finding.maps(), finding.masks()
    if maps is None or masks is None or masks.all() or not masks.any():
        return {"auroc_pixel": None, "aupro": None}, {"auroc_pixel": None, "aupro": None}
    measured = measure_pixels(torch.from_numpy(maps)[:, None], torch.from_numpy(masks))
    counts = PixelCounts(maps, masks, [_regions(mask) for mask in masks])
    intervals = {
        name: interval(finding.labels, statistic, PIXEL_RESAMPLES)
        for name, statistic in (("auroc_pixel", counts.auroc), ("aupro", counts.aupro))
    }
    return dict(measured), intervals


def _regions(mask: np.ndarray) -> np.ndarray:
    return cv2.connectedComponents(mask.astype(np.uint8))[1]


def auroc_by_kind(findings: Sequence[Finding]) -> dict[str, list[float | None]]:
    """Image AUROC of each kind of defect against all good images.

    Args:
        findings (Sequence[Finding]): What models found on the same data.

    Returns:
        dict[str, list[float | None]]: For each kind one number a model.
    """
    kinds = np.array(findings[0].kinds)
    labels = findings[0].labels
    return {
        str(kind): [
            auroc(labels[chosen], finding.scores[chosen])
            for finding in findings
            for chosen in [~labels | (kinds == kind)]
        ]
        for kind in sorted({*kinds[labels]})
    }

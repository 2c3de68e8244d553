# SPDX-License-Identifier: Apache-2.0

"""What scores and anomaly maps are worth, with bootstrap confidence intervals over the test images.

Example:
    >>> measure_images(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]), 0.3)["auroc"]
    0.75
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import auc

ImageMeasure = Callable[[np.ndarray, np.ndarray, float | None], float | None]
RECALL = 0.95
AUPRO_LIMIT = 0.3  # false-positive rate up to which AUPRO integrates, as its paper and anomalib do
RESAMPLES = 1000
BINS = 1000  # of anomaly maps, in the intervals of pixel measures


def measure_images(labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> dict[str, float | None]:
    """Judge image scores.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        threshold (float | None): Scores above it are called defective; None where none was calibrated.

    Returns:
        dict[str, float | None]: ``auroc``; ``f1`` at the threshold; ``fpr95``, the share of good images called
        defective where 95% of the defective ones are found. None for what cannot be measured.
    """
    return {name: measure(labels, scores, threshold) for name, measure in IMAGE_MEASURES.items()}


def auroc(labels: np.ndarray, scores: np.ndarray, threshold: float | None = None) -> float | None:
    """Area under the ROC curve: the share of pairs of a good and a defective image that are in order.

    By ranks, fifty times as fast as scikit-learn's curve, which a bootstrap would take minutes for.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        threshold (float | None): Not used.

    Returns:
        float | None: In [0, 1]; None without good or without defective images.
    """
    del threshold
    defective = int(labels.sum())
    good = len(labels) - defective
    if not good or not defective:
        return None
    return float((rankdata(scores)[labels].sum() - defective * (defective + 1) / 2) / (good * defective))


def f1(labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> float | None:
    """F1 score: the harmonic mean of precision and recall.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        threshold (float | None): Scores above it are called defective.

    Returns:
        float | None: In [0, 1]; None without a threshold, or without good or defective images.
    """
    if threshold is None or not np.isfinite(threshold) or labels.all() or not labels.any():
        return None
    rejected = scores > threshold
    return float(2 * (labels & rejected).sum() / (labels.sum() + rejected.sum()))


def false_positives_at_recall(
    labels: np.ndarray, scores: np.ndarray, threshold: float | None = None, recall: float = RECALL
) -> float | None:
    """Share of good images that are called defective where enough defective ones are found.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        threshold (float | None): Not used.
        recall (float): Share of defective images to find. Defaults to ``0.95``.

    Returns:
        float | None: In [0, 1]; None without good or without defective images.
    """
    del threshold
    if labels.all() or not labels.any():
        return None
    missed = int(np.floor((1 - recall) * labels.sum() + 1e-9))  # defective images that may be missed
    limit = np.partition(scores[labels], missed)[missed]
    return float((scores[~labels] >= limit).mean())


IMAGE_MEASURES: dict[str, ImageMeasure] = {
    "auroc": auroc,
    "f1": f1,
    "fpr95": false_positives_at_recall,
}


def interval(
    labels: np.ndarray, statistic: Callable[[np.ndarray], float | None], resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95% percentile bootstrap interval.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        statistic (Callable[[np.ndarray], float | None]): Takes indices of images, gives a number.
        resamples (int): Number of resamples. Defaults to ``1000``.

    Returns:
        tuple[float, float] | None: 2.5% and 97.5%; None where the statistic gives None.
    """
    values = resample(labels, statistic, resamples)
    if values is None:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def resample(
    labels: np.ndarray, statistic: Callable[[np.ndarray], float | None], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray | None:
    """Bootstrap over images, good and defective ones drawn apart, so that no resample lacks either.

    Resamples of the same labels are the same, so that two models can be compared resample by resample.

    Args:
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        statistic (Callable[[np.ndarray], float | None]): Takes indices of images, gives a number.
        resamples (int): Number of resamples. Defaults to ``1000``.
        seed (int): Seed; another for each data set whose resamples are averaged. Defaults to ``0``.

    Returns:
        np.ndarray | None: The statistic of each resample; None where it gives None.
    """
    random = np.random.default_rng(seed)
    groups = [group for kind in (False, True) if len(group := np.flatnonzero(labels == kind))]
    values = []
    for _ in range(resamples):
        value = statistic(np.concatenate([random.choice(group, len(group)) for group in groups]))
        if value is None:
            return None
        values.append(value)
    return np.array(values)


def on_resample(
    measure: ImageMeasure, labels: np.ndarray, scores: np.ndarray, threshold: float | None = None
) -> Callable[[np.ndarray], float | None]:
    """Statistic for :func:`resample`: a measure of the drawn images.

    Args:
        measure (ImageMeasure): One of ``IMAGE_MEASURES``.
        labels (np.ndarray): Whether each image is defective, boolean, shape ``(n,)``.
        scores (np.ndarray): Larger is more anomalous, shape ``(n,)``.
        threshold (float | None): Scores above it are called defective. Defaults to ``None``.

    Returns:
        Callable[[np.ndarray], float | None]: The statistic.
    """
    return lambda drawn: measure(labels[drawn], scores[drawn], threshold)


class PixelCounts:
    """Anomaly maps as counts per image over bins of their values, so that a resample of images is a sum of counts.

    Args:
        maps (np.ndarray): Anomaly maps, shape ``(n, H, W)``.
        masks (np.ndarray): Defects, boolean, same shape.
        regions (list[np.ndarray]): For each image the connected regions of its mask, numbered from 1, shape
            ``(H, W)``.
    """

    def __init__(self, maps: np.ndarray, masks: np.ndarray, regions: list[np.ndarray]) -> None:
        edges = np.unique(np.quantile(maps, np.linspace(0, 1, BINS + 1)[1:-1], method="higher"))
        bins = len(edges) + 1
        self.good = np.zeros((len(maps), bins))
        self.defective = np.zeros((len(maps), bins))
        self.overlaps: list[np.ndarray] = []  # of each image, (regions, bins): share of a region above each bin's edge
        for index, (values, mask, numbered) in enumerate(zip(maps, masks, regions, strict=True)):
            places = np.searchsorted(edges, values, side="right")  # (H, W)
            self.good[index] = np.bincount(places[~mask], minlength=bins)
            self.defective[index] = np.bincount(places[mask], minlength=bins)
            counts = [
                np.bincount(places[numbered == number], minlength=bins) for number in range(1, numbered.max() + 1)
            ]
            shares = [count[::-1].cumsum() / count.sum() for count in counts]
            self.overlaps.append(np.array(shares).reshape(-1, bins))

    def auroc(self, images: np.ndarray) -> float | None:
        """Pixel AUROC, ties within a bin counted half.

        Args:
            images (np.ndarray): Indices of images, with repetitions.

        Returns:
            float | None: In [0, 1]; None without good or defective pixels.
        """
        good, defective = self.good[images].sum(axis=0), self.defective[images].sum(axis=0)
        if not good.sum() or not defective.sum():
            return None
        below = good.cumsum() - good / 2
        return float((below * defective).sum() / good.sum() / defective.sum())

    def aupro(self, images: np.ndarray) -> float | None:
        """Mean share of a region that is found, integrated over the false-positive rate up to 0.3.

        Args:
            images (np.ndarray): Indices of images, with repetitions.

        Returns:
            float | None: In [0, 1]; None without good pixels or regions.
        """
        overlaps = np.concatenate([self.overlaps[index] for index in images])
        good = self.good[images].sum(axis=0)
        if not len(overlaps) or not good.sum():
            return None
        return area_up_to(good[::-1].cumsum() / good.sum(), overlaps.mean(axis=0), AUPRO_LIMIT)


def area_up_to(false_positives: np.ndarray, values: np.ndarray, limit: float) -> float:
    """Area under a curve from (0, 0) up to a false-positive rate, as a share of the largest there can be.

    Args:
        false_positives (np.ndarray): Rates, ascending, shape ``(k,)``.
        values (np.ndarray): Values at these rates, shape ``(k,)``.
        limit (float): Largest rate.

    Returns:
        float: In [0, 1].
    """
    rates, heights = np.r_[0, false_positives], np.r_[0, values]
    end = np.interp(limit, rates, heights)
    inside = rates < limit
    return float(auc(np.r_[rates[inside], limit], np.r_[heights[inside], end]) / limit)

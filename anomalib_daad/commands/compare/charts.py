# SPDX-License-Identifier: Apache-2.0

"""Charts of the comparison: accuracy against latency, ROC curves, histograms of the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from sklearn.metrics import roc_curve

from anomalib_daad.commands.shared.output_folder import Row
from anomalib_daad.commands.shared.picture import DEFECTIVE, GOOD, PALETTE, WIDTH, Omission, Picture, panels

from .finding import Finding

_COLOURS = [colour for colour in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", *PALETTE) if colour != "#F0E442"]
_LINES = ("-", "--", "-.", ":")


def draw_cost(means: Mapping[str, float | None], costs: Mapping[str, Row]) -> Picture | Omission:
    """Draw accuracy against latency.

    Args:
        means (Mapping[str, float | None]): Mean image AUROC of each model.
        costs (Mapping[str, Row]): Cost of each model.

    Returns:
        Picture | Omission: The chart.
    """
    heading = "Accuracy against latency"
    runtime = "openvino_ms" if all(row.get("openvino_ms") for row in costs.values()) else "torch_ms"
    points = {
        name: (costs[name][runtime], value)
        for name, value in means.items()
        if value is not None and costs.get(name, {}).get(runtime)
    }
    if not points:
        return Omission(heading, "There is no image AUROC without both good and defective test images.")
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (latency, value) in enumerate(points.values()):
        axes.plot(latency, value, "o", ms=9, color=_COLOURS[index % len(_COLOURS)])
    axes.set_xscale("log")
    latencies = [latency for latency, _ in points.values()]
    axes.set_xlim(min(latencies) / 2, max(latencies) * 3)  # wide enough for two ticks, and for the names
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    label = "OpenVINO" if runtime == "openvino_ms" else "PyTorch"
    axes.set(xlabel=f"milliseconds for one image, {label} (logarithmic)", ylabel="mean image AUROC")
    axes.margins(y=0.2)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.01))
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # fixes the layout, and so where the points are
    _name_points(axes, points, figure.dpi)
    alt = "; ".join(f"{name}: {latency:.3g} ms, image AUROC {value:.3f}" for name, (latency, value) in points.items())
    caption = f"Up and to the left is better: more accurate and faster. Time of one image in {label}."
    return Picture("accuracy_latency", heading, caption, alt, figure)


def _name_points(axes: Axes, points: Mapping[str, tuple[float, float]], dpi: float) -> None:
    """Write the names beside their points, from the top down, each below what it would overlap."""
    per_point = 72 / dpi
    size = rcParams["font.size"]
    places = {name: axes.transData.transform(point) * per_point for name, point in points.items()}
    taken = [(x - 5, x + 5, y) for x, y in places.values()]  # left, right and height, in points
    for name, (x, y) in sorted(places.items(), key=lambda it: -it[1][1]):
        left, right, height = x + 9, x + 9 + 0.65 * size * len(name), y
        for other_left, other_right, other in sorted(taken, key=lambda it: -it[2]):
            if left < other_right and other_left < right and abs(height - other) < 1.25 * size:
                height = other - 1.3 * size
        taken.append((left, right, height))
        axes.annotate(
            name,
            points[name],
            xytext=(9, height - y),
            textcoords="offset points",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#777777", "lw": 0.8} if height != y else None,
        )


def draw_roc(findings: Sequence[Finding]) -> Picture | Omission:
    """Draw the ROC curves of all models on one data set.

    Args:
        findings (Sequence[Finding]): What they found.

    Returns:
        Picture | Omission: The chart.
    """
    data = findings[0].trial.data.name
    heading = f"ROC curves: {data}"
    known = [finding for finding in findings if finding.measures["auroc"] is not None]
    if not known:
        return Omission(heading, "It needs good and defective test images.")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", lw=1)
    for index, finding in enumerate(known):
        false_positives, true_positives, _ = roc_curve(finding.labels, finding.scores)
        axes.plot(
            false_positives,
            true_positives,
            _LINES[index % len(_LINES)],
            color=_COLOURS[index % len(_COLOURS)],
            label=f"{finding.name} {finding.measures['auroc']:.3f}",
        )
    axes.axhline(0.95, color="#999999", lw=1, ls=":")
    axes.set(xlabel="share of good parts rejected", ylabel="share of defective parts found", aspect="equal")
    axes.legend(loc="lower right", frameon=False)
    alt = "; ".join(
        f"{finding.name}: area {finding.measures['auroc']:.3f}, rejects {finding.measures['fpr95']:.0%} of the "
        f"good parts where it finds 95% of the defective ones"
        for finding in known
    )
    caption = "Closer to the upper left corner is better. Dotted: 95% of the defective parts found."
    return Picture(f"roc_{data}", heading, caption, alt, figure)


def draw_histograms(findings: Sequence[Finding]) -> Picture:
    """Draw how the scores of good and defective images lie, with the threshold.

    Args:
        findings (Sequence[Finding]): What the models found on one data set.

    Returns:
        Picture: The chart.
    """
    data = findings[0].trial.data.name
    figure, axes = panels(len(findings), 1, 2.0)
    told = []
    for panel, finding in zip(axes, findings, strict=True):
        edges = np.histogram_bin_edges(finding.scores[np.isfinite(finding.scores)], bins=30).tolist()
        for kind, colour, name in ((False, GOOD, "good"), (True, DEFECTIVE, "defective")):
            if (finding.labels == kind).any():
                panel.hist(finding.scores[finding.labels == kind], edges, color=colour, alpha=0.6, label=name)
        told.append(f"{finding.name}: {_wrong(finding)}")
        panel.set_title(told[-1], loc="left")
        if finding.threshold is not None:
            panel.axvline(finding.threshold, color="#1a1a1a", ls="--", lw=1.5, label="threshold")
        panel.set(yticks=[], ylabel="images")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("score (each model has its own scale)")
    caption = (
        "Left of the dashed line a part passes, right of it it is rejected. The less the two colours mix, the better."
    )
    return Picture(f"scores_{data}", f"Scores: {data}", caption, "; ".join(told), figure)


def _wrong(finding: Finding) -> str:
    if finding.threshold is None:
        return "no threshold was calibrated"
    rejected = finding.scores > finding.threshold
    missed, good = int((finding.labels & ~rejected).sum()), int((~finding.labels & rejected).sum())
    told = [f"misses {missed} of {finding.labels.sum()}"] if finding.labels.any() else []
    return ", ".join([*told, f"rejects {good} of {(~finding.labels).sum()} good"])

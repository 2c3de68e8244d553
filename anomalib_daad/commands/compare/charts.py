# SPDX-License-Identifier: Apache-2.0

"""Charts of the comparison: accuracy against latency, ROC curves, histograms of the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from sklearn.metrics import roc_curve

from anomalib_daad.commands.shared.output_folder import Row
from anomalib_daad.commands.shared.picture import DEFECTIVE, GOOD, PALETTE, WIDTH, Omission, Picture, panels

from .cost import runtime
from .finding import Finding

_COLOURS = [colour for colour in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", *PALETTE) if colour != "#F0E442"]
_LINES = ("-", "--", "-.", ":")
_KINDS = ((False, "good", GOOD), (True, "defective", DEFECTIVE))


def draw_cost(means: Mapping[str, float | None], costs: Mapping[str, Row]) -> Picture | Omission:
    """Draw accuracy against latency.

    Args:
        means (Mapping[str, float | None]): Mean image AUROC of each model.
        costs (Mapping[str, Row]): Cost of each model.

    Returns:
        Picture | Omission: The chart.
    """
    heading = "Accuracy against time"
    key, label = runtime(costs)
    points = {
        name: (costs[name][key], value)
        for name, value in means.items()
        if value is not None and costs.get(name, {}).get(key)
    }
    if not points:
        return Omission(heading, "There is no image AUROC without both good and defective test images.")
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (latency, value) in enumerate(points.values()):
        axes.plot(latency, value, "o", ms=9, color=_COLOURS[index % len(_COLOURS)], clip_on=False)
    axes.set_xscale("log")
    latencies = [latency for latency, _ in points.values()]
    axes.set_xlim(min(latencies) / 2, max(latencies) * 3)  # wide enough for two ticks, and for the names
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"milliseconds for one image, {label} (logarithmic)", ylabel="mean image AUROC")
    _end_at_one(axes, min(value for _, value in points.values()))
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # fixes the layout, and so where the points are
    _name_points(axes, points, figure.dpi)
    alt = "; ".join(f"{name}: {latency:.3g} ms, image AUROC {value:.3f}" for name, (latency, value) in points.items())
    caption = f"Up and to the left is better: more accurate and faster. Time of one image in {label}."
    return Picture("accuracy_latency", heading, caption, alt, figure)


def _end_at_one(axes: Axes, lowest: float) -> None:
    """Let an axis of AUROC end at 1, the best there is, with room for a name beside a point there."""
    room = max(1 - lowest, 0.01)
    bottom = lowest - 0.4 * room
    below = MaxNLocator(5).tick_values(0, 1 - bottom)
    axes.set_yticks([1 - tick for tick in below if 0 <= tick <= 1 - bottom])
    axes.set_ylim(bottom, 1 + 0.1 * (1 - bottom))
    axes.spines["left"].set_bounds(bottom, 1)


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
            lw=2,
            clip_on=False,
        )
    axes.axhline(0.95, color="#999999", lw=1, ls=":")
    axes.set(xlabel="share of good parts rejected", ylabel="share of defective parts found", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
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
        edges = np.histogram_bin_edges(finding.scores[np.isfinite(finding.scores)], bins=20).tolist()
        kinds = [kind for kind in _KINDS if (finding.labels == kind[0]).any()]
        panel.hist(
            [finding.scores[finding.labels == kind] for kind, *_ in kinds],
            edges,
            color=[colour for *_, colour in kinds],
            label=[name for _, name, _ in kinds],
        )  # side by side, as colours that overlap make a third
        told.append(f"{finding.name} {finding.tally or 'has no threshold'}")
        panel.set_title(finding.name, loc="left")
        if finding.threshold is not None:
            panel.axvline(finding.threshold, color="#1a1a1a", ls="--", lw=1.5, label="threshold")
        panel.set_ylabel("images")
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    axes[-1].set_xlabel("score (each model has its own scale)")
    caption = (
        "Left of the dashed line a part passes, right of it it is rejected. The farther apart the two colours lie, the "
        "better."
    )
    return Picture(f"scores_{data}", f"Scores: {data}", caption, "; ".join(told), figure)

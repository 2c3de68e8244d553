# SPDX-License-Identifier: Apache-2.0

"""Pictures of the scores: their two parts, the decision between good and defective, and the defects' areas."""

from typing import NamedTuple

import numpy as np
import torch
from anomalib.post_processing import PostProcessor
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from anomalib_daad.commands.shared.picture import DEFECTIVE, GOOD, WIDTH, Omission, Picture
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.registration import Model

from .observation import Observations

UNKNOWN = "#555555"


class Threshold(NamedTuple):
    """Fused score above which an image is called defective.

    Attributes:
        score (float): The score.
        source (str): Where it comes from.
    """

    score: float
    source: str


def draw_scores(model: Model, observations: Observations) -> list[Picture | Omission]:
    """Draw all pictures of the scores.

    Args:
        model (Model): Model.
        observations (Observations): What it made of images.

    Returns:
        list[Picture | Omission]: The parts of the score, ROC curves, and the score against the defect's area.
    """
    threshold = find_threshold(model, observations)
    if observations.alignment is None:
        parts = draw_histogram(observations, model, threshold)
    else:
        parts = draw_parts(observations, model, threshold)
    return [parts, draw_roc(observations), draw_areas(observations, threshold)]


def find_threshold(model: Model, observations: Observations) -> Threshold | None:
    """Find the fused score above which an image is called defective.

    Args:
        model (Model): Model.
        observations (Observations): What it made of images.

    Returns:
        Threshold | None: The checkpoint's, or else the one of the best F1 score on these images; None where they are
        not of both kinds.
    """
    post_processor = model.post_processor
    if isinstance(post_processor, PostProcessor):
        saved = post_processor.image_threshold
        if post_processor.enable_normalization:
            # anomalib compares (score - threshold) / (max - min) + 0.5 with 1 - sensitivity.
            width = (post_processor.image_max - post_processor.image_min).nan_to_num()
            saved = saved + (0.5 - post_processor.image_sensitivity) * width
        if saved.isfinite():
            return Threshold(float(saved), "the checkpoint's threshold")
    if not _of_both_kinds(observations):
        return None
    precision, recall, thresholds = precision_recall_curve(observations.labels, observations.fused)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Threshold(float(thresholds[f1[:-1].argmax()]), "the threshold of the best F1 score on these images")


def decision_line(score: FusedScore, threshold: float, across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Compute where ``gamma R' + (1 - gamma) L' = threshold``, with R' and L' scaled by the model's ranges.

    Args:
        score (FusedScore): The model's fused score.
        threshold (float): Threshold.
        across (np.ndarray): Smallest and largest R(x) of interest, shape ``(2,)``.
        up (np.ndarray): Smallest and largest L(x) of interest, shape ``(2,)``; used where L(x) does not count.

    Returns:
        np.ndarray: R(x) and L(x) of two points on the line, shape ``(2, 2)``, a row for each point.
    """
    parts = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64, device=score.alignment_range.device)
    constant, at_one_r, at_one_l = score(*parts).tolist()
    by_r, by_l = at_one_r - constant, at_one_l - constant  # the score is constant + by_r R + by_l L
    if by_l:
        return np.stack([across, (threshold - constant - by_r * across) / by_l], axis=1)
    return np.stack([np.full(2, (threshold - constant) / by_r), up], axis=1)


def draw_parts(observations: Observations, model: Model, threshold: Threshold | None) -> Picture:
    """Draw R(x) against L(x) and the line that decides.

    Args:
        observations (Observations): What a model with L(x) made of images.
        model (Model): The model.
        threshold (Threshold | None): Threshold of the fused score.

    Returns:
        Picture: A scatter plot.
    """
    score = model.model.score
    figure, axes = _figure("L(x) against R(x)")
    reconstruction, alignment = observations.reconstruction, np.asarray(observations.alignment)
    for name, chosen, colour, marker in _kinds(observations):
        axes.scatter(reconstruction[chosen], alignment[chosen], c=colour, marker=marker, label=name, alpha=0.8)
    limits = [_widen(values) for values in (reconstruction, alignment)]
    wording = model.model.wording
    caption = f"R(x), {wording.reconstruction}, against L(x), {wording.alignment}."
    if threshold is not None:
        line = decision_line(score, threshold.score, *limits)
        axes.plot(*line.T, color="black", linestyle="--", label="decision")
        caption += (
            f" Images right of and above the dashed line are called defective: it is where {score.gamma:g} R' + "
            f"{1 - score.gamma:g} L' = {threshold.score:.4g}, {threshold.source}, with R' and L' scaled by the model's "
            "ranges."
        )
    else:
        caption += " No line: the checkpoint has no threshold, and these images are not of both kinds."
    axes.set(xlabel="R(x)", ylabel="L(x)", xlim=limits[0], ylim=limits[1])
    _legend(figure, axes)
    decision = _describe_decision(observations, threshold)
    alt = f"Scatter plot of L(x) against R(x) of {len(observations.names)} images."
    return Picture("scores", "Scores", caption + decision, alt + decision, figure)


def draw_histogram(observations: Observations, model: Model, threshold: Threshold | None) -> Picture:
    """Draw a histogram of R(x), for a model without L(x).

    Args:
        observations (Observations): What the model made of images.
        model (Model): The model.
        threshold (Threshold | None): Threshold of the scaled score.

    Returns:
        Picture: A histogram.
    """
    figure, axes = _figure(f"R(x) of {len(observations.names)} images")
    values = observations.reconstruction
    bins = np.histogram_bin_edges(values, bins=15).tolist()
    names, choices, colours, _ = zip(*_kinds(observations), strict=True)
    axes.hist([values[chosen] for chosen in choices], bins=bins, color=colours, label=names)
    caption = f"R(x), {model.model.wording.reconstruction}. The model has no L(x)."
    if threshold is not None:
        low, high = model.model.score.reconstruction_range.double().nan_to_num().tolist()
        at = low + threshold.score * ((high - low) or 1)
        axes.axvline(at, color="black", linestyle="--", label="decision")
        caption += f" Images right of the dashed line are called defective: it is {threshold.source}."
    axes.set(xlabel="R(x)", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes)
    decision = _describe_decision(observations, threshold)
    alt = f"Histogram of R(x) of {len(observations.names)} images."
    return Picture("scores", "Scores", caption + decision, alt + decision, figure)


def draw_roc(observations: Observations) -> Picture | Omission:
    """Draw the ROC curves of R(x), L(x) and the fused score.

    Args:
        observations (Observations): What a model made of images.

    Returns:
        Picture | Omission: The curves; an omission where the images are not of both kinds.
    """
    if not _of_both_kinds(observations):
        return Omission("ROC curves", f"ROC curves need good and defective images, and here {_missing(observations)}.")
    scores = {"R": observations.reconstruction, "L": observations.alignment, "fused": observations.fused}
    if observations.alignment is None:
        scores = {"R": observations.reconstruction}  # the fused score is R, scaled
    areas = {name: roc_auc_score(observations.labels, values) for name, values in scores.items()}
    summary = ", ".join(f"{name} {area:.3f}" for name, area in areas.items())
    figure, axes = _figure(f"AUROC: {summary}")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    styles = {"R": (GOOD, "--"), "L": (DEFECTIVE, "-."), "fused": ("black", "-")}
    for name, values in scores.items():
        false_rate, true_rate, _ = roc_curve(observations.labels, values)
        colour, line = styles[name]
        axes.plot(
            false_rate,
            true_rate,
            color=colour,
            linestyle=line,
            linewidth=2,
            label=f"{name}, {areas[name]:.3f}",
            clip_on=False,
        )
    axes.set(xlabel="good images called defective", ylabel="defective images found", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    caption = (
        "Share of the defective images found against the share of good images called defective, for all thresholds."
    )
    return Picture("roc", "ROC curves", caption, f"ROC curves with the areas under them: {summary}.", figure)


def draw_areas(observations: Observations, threshold: Threshold | None) -> Picture | Omission:
    """Draw the fused score against the area of the defect (the paper's Figure 6).

    Args:
        observations (Observations): What a model made of images.
        threshold (Threshold | None): Threshold of the fused score.

    Returns:
        Picture | Omission: A scatter plot; an omission where no defect has a mask.
    """
    heading = "Score and the defect's area"
    with_mask = observations.areas > 0
    if not with_mask.any():
        return Omission(heading, "No image has a mask of its defect.")
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    beside, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 4])
    good = np.asarray(observations.fused)[~np.asarray(observations.labels)]
    beside.scatter(np.random.default_rng(0).uniform(-1, 1, len(good)), good, c=GOOD, marker="o", alpha=0.8)
    beside.set(xticks=[], xlim=(-1.6, 1.6), xlabel="good", ylabel="fused score")
    axes.scatter(100 * observations.areas[with_mask], observations.fused[with_mask], c=DEFECTIVE, marker="^", alpha=0.8)
    axes.set(xscale="log", xlabel="defect's area, % of the image")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.suptitle("Fused score against the defect's area", fontsize=11)
    caption = (
        "The fused score against the share of the image that the mask of its defect covers; good images at the left."
    )
    if threshold is not None:
        for panel in (beside, axes):
            panel.axhline(threshold.score, color="black", linestyle="--")
        caption += f" Dashed: {threshold.source}."
    smallest, largest = 100 * observations.areas[with_mask].min(), 100 * observations.areas[with_mask].max()
    alt = f"Scatter plot of the scores of {with_mask.sum()} defects of {smallest:.2g} to {largest:.2g} % of the image."
    return Picture("score_area", heading, caption, alt, figure)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def _widen(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low) or 0.5
    return np.array([low - margin, high + margin])


def _kinds(observations: Observations) -> list[tuple[str, np.ndarray, str, str]]:
    """Name, choice, colour and marker of each kind of image that there is."""
    labels = observations.labels
    if labels is None:
        return [("not labelled", np.ones(len(observations.names), dtype=bool), UNKNOWN, "o")]
    kinds = [("good", ~labels, GOOD, "o"), ("defective", labels, DEFECTIVE, "^")]
    return [kind for kind in kinds if kind[1].any()]


def _of_both_kinds(observations: Observations) -> bool:
    return observations.labels is not None and len(np.unique(observations.labels)) == 2


def _missing(observations: Observations) -> str:
    if observations.labels is None:
        return "no image is labelled"
    return "all images are defective" if observations.labels.all() else "no image is defective"


def _describe_decision(observations: Observations, threshold: Threshold | None) -> str:
    if threshold is None:
        return ""
    called = observations.fused > threshold.score
    texts = [f"{called[chosen].sum()} of {chosen.sum()} {name}" for name, chosen, _, _ in _kinds(observations)]
    return f" Called defective: {', '.join(texts)}."

# SPDX-License-Identifier: Apache-2.0

"""Pictures of reconstructions: of one model (the paper's Figure 2), and of models side by side (its Figure 5)."""

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
from anomalib.post_processing import PostProcessor
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_daad.commands.shared.picture import WIDTH, Picture, bare
from anomalib_daad.commands.shared.trained_model import name_divisions
from anomalib_daad.registration import Model

from .images import InspectedImage, InspectedImages
from .observation import Observations, choose, look

IMAGES_OF_A_KIND = 3


def draw_reconstructions(model: Model, images: InspectedImages, observations: Observations) -> Picture:
    """Draw inputs, reconstructions, errors, anomaly maps and masks of some images.

    Args:
        model (Model): Model.
        images (InspectedImages): Images.
        observations (Observations): What the model made of them.

    Returns:
        Picture: A row for each image.
    """
    rows = choose(observations, IMAGES_OF_A_KIND)
    shown = [images[index] for index in rows]
    close_ups = [look(model, image) for image in shown]
    has_masks = any(image.mask is not None and image.mask.any() for image in shown)
    figure, grid = _grid(len(rows), 5 if has_masks else 4, with_bars=True)
    highest_error = max(close_up.error.max() for close_up in close_ups)
    highest_map = max(close_up.anomaly_map.max() for close_up in close_ups)
    lowest_map = 0.0 if highest_map > 0 else min(close_up.anomaly_map.min() for close_up in close_ups)
    threshold = _pixel_threshold(model)
    if lowest_map < threshold < highest_map:  # else one strong defect would leave all other maps dark
        highest_map = min(highest_map, 2 * threshold - lowest_map)
    for axes, image, close_up in zip(grid, shown, close_ups, strict=False):
        axes[0].imshow(close_up.image)
        axes[1].imshow(close_up.reconstruction)
        error = axes[2].imshow(close_up.error, cmap="viridis", vmin=0, vmax=highest_error)
        anomaly_map = axes[3].imshow(close_up.anomaly_map, cmap="viridis", vmin=lowest_map, vmax=highest_map)
        if has_masks:
            mask = np.zeros((1, 1)) if image.mask is None else image.mask.cpu().numpy()
            height, width = close_up.error.shape
            axes[4].imshow(mask, cmap="gray", vmin=0, vmax=1, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    wording = model.model.wording
    _label(grid, shown, ["input", wording.made, "error", "map", "mask"])
    for axes, mappable in ((grid[-1, 2], error), (grid[-1, 3], anomaly_map)):
        axes.set_axis_on()
        bar = figure.colorbar(mappable, cax=axes, orientation="horizontal")
        limits = (mappable.norm.vmin, mappable.norm.vmax)
        bar.set_ticks(limits, labels=[f"{limit:.2g}" for limit in limits], fontsize=9)
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    caption = (
        f"{_list_rows(shown)} {wording.made.capitalize()}: what the model made of the input. Error: its absolute "
        f"difference from the input, the mean over the colours, from 0 to 1. Map: {wording.anomaly_map}. Bright is "
        "more; all rows share a scale."
    )
    if np.isfinite(threshold):
        caption += " That of the maps ends at twice the checkpoint's threshold at most."
    if has_masks:
        caption += " Mask: where people marked the defect, in white."
    alt = f"{len(rows)} images, each with its reconstruction, its error and its anomaly map. {_list_rows(shown)}"
    return Picture("reconstructions", "Reconstructions", caption, alt, figure)


def _pixel_threshold(model: Model) -> float:
    """Value of a map above which a pixel is called defective; NaN where none was calibrated."""
    post_processor = model.post_processor
    return float(post_processor.pixel_threshold) if isinstance(post_processor, PostProcessor) else np.nan


def draw_rates(models: Sequence[Model], images: InspectedImages, observations: Observations) -> Picture:
    """Draw the same images as rebuilt by several models.

    Args:
        models (Sequence[Model]): Models.
        images (InspectedImages): Images.
        observations (Observations): What the first model made of them.

    Returns:
        Picture: A row for each image, a column for each model.
    """
    shown = [images[index] for index in choose(observations, 2)]
    figure, grid = _grid(len(shown), 1 + len(models))
    for axes, image in zip(grid, shown, strict=True):
        axes[0].imshow(look(models[0], image).image)
        for panel, model in zip(axes[1:], models, strict=True):
            panel.imshow(look(model, image).reconstruction)
    names = [name_divisions(model) for model in models]
    _label(grid, shown, ["input", *names])
    caption = (
        f"{_list_rows(shown)} Each column is rebuilt by the model of one checkpoint and titled with its division rate: "
        "height x width x channels. The more divisions, the smaller the blocks, and the more is rebuilt, defects "
        "included."
    )
    alt = f"Grid of {len(shown)} images, rebuilt with the division rates {', '.join(names)}. {_list_rows(shown)}"
    return Picture("rates", "Division rates", caption, alt, figure)


def _grid(rows: int, columns: int, with_bars: bool = False) -> tuple[Figure, np.ndarray]:
    """Panels for images, and below them a row for colour bars."""
    cell = (WIDTH - 0.5) / columns
    figure = Figure(figsize=(WIDTH, rows * (cell + 0.04) + 0.3 + 0.4 * with_bars), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.0, hspace=0.0)  # type: ignore[union-attr,call-arg]
    heights = [1.0] * rows + [0.08] * with_bars
    grid: np.ndarray = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in grid[:rows].flatten():
        bare(axes)
    for axes in grid[rows:].flatten():
        axes.set_axis_off()
    return figure, grid


def _label(grid: np.ndarray, shown: Sequence[InspectedImage], titles: Sequence[str]) -> None:
    axes: Axes
    for axes, title in zip(grid[0], titles, strict=False):
        axes.set_title(title)
    for axes, image, letter in zip(grid[:, 0], shown, ascii_lowercase, strict=False):
        kind = "" if image.defective is None else "\ndefective" if image.defective else "\ngood"
        axes.set_ylabel(f"{letter}{kind}")


def _list_rows(shown: Sequence[InspectedImage]) -> str:
    rows = ", ".join(f"{letter} {image.name}" for letter, image in zip(ascii_lowercase, shown, strict=False))
    return f"Rows: {rows}."

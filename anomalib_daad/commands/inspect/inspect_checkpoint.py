# SPDX-License-Identifier: Apache-2.0

"""All pictures of a checkpoint, as files and on one page."""

from pathlib import Path

from matplotlib import rc_context
from rich import print as rich_print

from anomalib_daad.commands.shared.output_folder import prepare_folder
from anomalib_daad.commands.shared.picture import STYLE, show
from anomalib_daad.commands.shared.tally import count
from anomalib_daad.commands.shared.templates import render
from anomalib_daad.commands.shared.trained_model import load_model, name_divisions
from anomalib_daad.registration import Model

from .cards import make_cards
from .images import InspectedImages
from .memory import draw_memories
from .observation import Observations, observe
from .reconstruction import draw_rates, draw_reconstructions
from .scores import Threshold, draw_scores, find_threshold


def inspect(
    checkpoints: list[Path], data: Path, category: str | None = None, output: Path = Path("inspection")
) -> None:
    """Draw what a trained model rebuilds, what its memories hold, and how it scores.

    Args:
        checkpoints: Lightning checkpoints of models of this package. The first is inspected; all are compared by what
            they rebuild, for example at several division rates.
        data: Root of data in MVTec AD's layout, with a category; without one, a folder of images.
        category: Category, whose test images are used.
        output: Folder for the pictures (PNG) and ``index.html``, which holds them all.

    Raises:
        ValueError: If a checkpoint is not one of these models, or the data are not there.
        OSError: If the output folder cannot be written to.
    """
    models = [load_model(path) for path in checkpoints]
    images = InspectedImages(data, category)
    prepare_folder(output)
    observations = observe(models[0], images)
    threshold = find_threshold(models[0], observations)
    with rc_context(STYLE):
        rates = [show(draw_rates(models, images, observations), output)] if len(models) > 1 else []
        answers, *memories = [show(it, output) for it in draw_memories(models[0], images, observations)]
        scores = [show(it, output) for it in draw_scores(models[0], observations)]
        reconstructions = show(draw_reconstructions(models[0], images, observations), output)
    subject = data.resolve().name if category is None else category
    page = output / "index.html"
    render(
        "inspection.html",
        page,
        title=f"What {type(models[0]).__name__} makes of {subject}",
        headline=_verdict(type(models[0]).__name__, observations, threshold),
        source="" if threshold is None else f"Judged by {threshold.source}, a score of {threshold.score:.3g}.",
        cards=make_cards(models[0], images, observations, threshold),
        answers=answers,
        rates=rates,
        scores=scores,
        details=[reconstructions, *memories],
        facts=_facts(models, checkpoints, data, observations),
    )
    rich_print(f"[bold]{len(observations.names)} images[/bold] -> {page}")


def _verdict(name: str, observations: Observations, threshold: Threshold | None) -> str:
    if threshold is None:
        return f"{name} scores {len(observations.names)} images, and has no threshold to call any defective."
    rejected = observations.fused > threshold.score
    if observations.labels is None:
        return f"{name} calls {rejected.sum()} of {len(rejected)} images defective."
    return f"{name} {count(observations.labels, rejected)}."


def _facts(models: list[Model], checkpoints: list[Path], data: Path, observations: Observations) -> dict[str, str]:
    model, labels = models[0], observations.labels
    height, width = model.model.image_size
    kinds = "not labelled" if labels is None else f"{(~labels).sum()} good, {labels.sum()} defective"
    facts = {
        "Checkpoint": str(checkpoints[0]),
        "Images": f"{len(observations.names)} in {data}: {kinds}",
        "Model": f"{type(model).__name__}, {height}x{width} pixels",
        "Division rate": name_divisions(model),
        "Memories": ", ".join(f"{len(use.items)} items at scale {use.scale}" for use in observations.memories)
        or "none",
    }
    if len(models) > 1:
        others = zip(models[1:], checkpoints[1:], strict=True)
        facts["Compared with"] = "; ".join(f"{name_divisions(other)}: {path}" for other, path in others)
    return facts

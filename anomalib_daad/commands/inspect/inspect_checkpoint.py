# SPDX-License-Identifier: Apache-2.0

"""All pictures of a checkpoint, as files and on one page."""

from pathlib import Path

from matplotlib import rc_context
from rich import print as rich_print

from anomalib_daad.commands.shared import html_page
from anomalib_daad.commands.shared.output_folder import prepare_folder
from anomalib_daad.commands.shared.picture import STYLE, Omission, Picture
from anomalib_daad.commands.shared.trained_model import load_model, name_divisions
from anomalib_daad.registration import Model

from .images import InspectedImages
from .memory import draw_memories
from .observation import Observations, observe
from .reconstruction import draw_rates, draw_reconstructions
from .scores import draw_scores


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
    pictures: list[Picture | Omission] = []
    with rc_context(STYLE):
        pictures.append(draw_reconstructions(models[0], images, observations))
        if len(models) > 1:
            pictures.append(draw_rates(models, images, observations))
        pictures += draw_memories(models[0], images, observations)
        pictures += draw_scores(models[0], observations)
        saved = [picture if isinstance(picture, Omission) else (picture, picture.save(output)) for picture in pictures]
    subject = data.resolve().name if category is None else category
    page = output / "index.html"
    described = html_page.facts(_facts(models, checkpoints, data, observations))
    blocks = [described, *map(html_page.picture_section, saved)]
    html_page.write_page(page, f"What the model makes of {subject}", blocks)
    rich_print(f"[bold]{len(observations.names)} images[/bold] -> {page}")


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

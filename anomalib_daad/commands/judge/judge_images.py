# SPDX-License-Identifier: Apache-2.0

"""Scores of all images of a folder: a table, a file, and a page to look at."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomalib_daad.commands.shared.embedded_picture import View, embed, for_outlines, side_of
from anomalib_daad.commands.shared.image_files import find_images, read_pixels
from anomalib_daad.commands.shared.output_folder import prepare_folder
from anomalib_daad.commands.shared.progress_bar import tracked
from anomalib_daad.commands.shared.templates import render
from anomalib_daad.training.judgement_pictures import THRESHOLD, highlight

from .judge import Judge, Judgement, open_judge
from .scores_file import DEFECTIVE, GOOD, UNDECIDED, UNREADABLE, Score, ScoresFile
from .strongest_point import strongest

logger = logging.getLogger(__name__)
SHOWN = 20  # lines of the table on the terminal
ON_PAGE = 200  # images
BYTES = 4_500_000  # of the page's pictures, in base64
VIEWS = 3  # of an image: it, what the model expected, what is odd


def judge(
    model: Path,
    images: Path,
    output: Path = Path("judgement"),
    threshold: float | None = None,
    overwrite: bool = False,
) -> None:
    """Judge images: a table on the terminal, scores.csv, and index.html with the oddest images.

    The page shows up to 200 images, the highest scores first: the image, what the model expected in its place, and the
    image with what is odd coloured and outlined. An interrupted command goes on where it stopped.

    Args:
        model: Checkpoint or safetensors file of a model of this package, or an export (ONNX, OpenVINO, PyTorch) of any
            of anomalib's models.
        images: Image, or a folder that is searched with all its subfolders.
        output: Folder for scores.csv and index.html.
        threshold: Scores above it are defective; the model's own threshold if not given.
        overwrite: Judge all images again.

    Raises:
        ValueError: If the model or the images are not there, or the output holds other scores.
        OSError: If the output folder cannot be written to.
    """
    files, root = find_images(images)
    prepare_folder(output)
    opened = open_judge(model)
    settings = {"model": _identity(model), "images": str(root.resolve()), "threshold": str(threshold)}
    table = ScoresFile(output, settings, overwrite)
    names = {_name(path, root): path for path in files}
    done = {score.file: score.version for score in table.read() if score.verdict != UNREADABLE}
    waiting = [name for name, path in names.items() if done.get(name) != _version(path)]
    limit = f"{threshold:g}, as you asked" if threshold is not None else _limit(opened)
    with table:
        for name in tracked(waiting, "Judging"):
            table.add(_judge(opened, names[name], name, threshold))
    scores = sorted((it for it in table.read() if it.file in names), key=_rank)
    page = output / "index.html"
    cards = list(_cards(opened, scores, names, THRESHOLD if threshold is None else threshold))
    render("judgement.html", page, **_summary(scores, model, root, limit), cards=cards)
    _print(scores, table.path)
    Console().print(Text(f"Page: {page}"))


def _name(path: Path, root: Path) -> str:
    """Name an image below its folder; bytes of a name that are no letters are spelt out."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _version(path: Path) -> str:
    """Tell a file from another one that took its name."""
    about = path.stat()
    return f"{about.st_size} bytes of {about.st_mtime_ns}"


def _identity(model: Path) -> str:
    """Tell a model's file from others, also from one of the same name that was trained anew."""
    return f"{model.resolve()} ({_version(model)})"


def _judge(opened: Judge, path: Path, name: str, threshold: float | None) -> Score:
    version = _version(path)
    try:
        image = read_pixels(path)
        found = opened.judge(image)
    except ValueError as error:
        logger.warning("%s cannot be judged: %s", name, error)
        return Score(name, None, UNREADABLE, note=str(error), version=version)
    place = (None, None) if found.anomaly_map is None else strongest(found.anomaly_map, image.shape[:2])
    verdict, (x, y) = _decide(found, threshold), place
    return Score(name, found.score, verdict, found.p_value, found.raw_score, x=x, y=y, version=version)


def _decide(found: Judgement, threshold: float | None) -> str:
    if threshold is not None:
        return GOOD if found.score <= threshold else DEFECTIVE  # NaN is no good score
    if found.is_defective is None:
        return UNDECIDED
    return DEFECTIVE if found.is_defective else GOOD


def _rank(score: Score) -> tuple[float, str]:
    """Unreadable files first, then the highest scores."""
    return (-np.inf if score.score is None else -score.score, score.file)


def _print(scores: list[Score], path: Path) -> None:
    table = Table("file", "score", "verdict", "p-value", "where (x, y)")
    for score in scores[:SHOWN]:
        place = "" if score.x is None else f"{score.x}, {score.y}"
        shown = "" if score.score is None else f"{score.score:.3f}"
        odd = "" if score.p_value is None else f"{score.p_value:.3f}"
        table.add_row(Text(score.file), shown, score.verdict, odd, place)
    console = Console()
    console.print(table)
    left = f", {len(scores) - SHOWN} more in" if len(scores) > SHOWN else ":"
    console.print(Text(f"{_verdict(scores)}{left} {path}"))


def _verdict(scores: list[Score]) -> str:
    defective = sum(score.verdict == DEFECTIVE for score in scores)
    unreadable = sum(score.verdict == UNREADABLE for score in scores)
    text = f"{defective} of {len(scores) - unreadable} images are defective"
    if any(score.verdict == UNDECIDED for score in scores):
        text = f"{len(scores) - unreadable} images without a verdict: the model has no threshold, give --threshold"
    return text + (f"; {unreadable} cannot be read" if unreadable else "")


def _limit(opened: Judge) -> str:
    """Where the model's own threshold lies, and what it promises."""
    if opened.threshold is None:
        return "the model's own"
    told = f"{opened.threshold:g}, the model's own"
    if opened.good_images:
        told += f", from {opened.good_images} good images: at most {opened.promised_rate:.1%} of good ones are rejected"
    return told


def _summary(scores: list[Score], model: Path, root: Path, limit: str) -> dict[str, Any]:
    readable = [score for score in scores if score.score is not None]
    return {
        "title": f"Judgement of {root.resolve().name}",
        "headline": f"{_verdict(scores)}.",
        "facts": {
            "Model": str(model),
            "Images": f"{len(scores)} in {root}",
            "Threshold": limit,
        },
        "total": len(readable),
        "unreadable": [score for score in scores if score.score is None],
    }


def _scaled(anomaly_map: np.ndarray) -> np.ndarray:
    """Bring a map without a threshold to [0, 1], so that its strongest points are pale and none is outlined."""
    low, high = float(np.nanmin(anomaly_map)), float(np.nanmax(anomaly_map))
    if low >= 0 and high <= 1:
        return anomaly_map
    return (anomaly_map - low) / max(high - low, 1e-12) * THRESHOLD


def _cards(opened: Judge, scores: list[Score], names: dict[str, Path], outline: float) -> Iterator[dict[str, Any]]:
    """Pictures of the highest scores, judged anew: those of all images would not fit memory."""
    chosen = [score for score in scores if score.score is not None][:ON_PAGE]
    side = side_of(VIEWS * len(chosen))
    used = 0
    for score in tracked(chosen, "Drawing"):
        try:
            image = read_pixels(names[score.file])
            found, expected = opened.judge(image), opened.expect(image)
        except ValueError:  # it is gone since it was judged
            continue
        shown = [("the image", image)]
        if expected is not None:
            shown.append(("what the model expected", expected))
        if found.anomaly_map is not None:
            shown.append(("what is odd", highlight(for_outlines(image, side), _scaled(found.anomaly_map), outline)))
        views = [View(what, embed(picture, side)) for what, picture in shown]
        used += sum(len(view.address) for view in views)
        if used > BYTES:
            return
        yield {"score": score, "is_defective": score.verdict == DEFECTIVE, "views": views}

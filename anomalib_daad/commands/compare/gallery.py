# SPDX-License-Identifier: Apache-2.0

"""The most telling test images of each model: its worst misses and its worst false alarms."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anomalib.data.utils
import numpy as np
from anomalib.models import AnomalibModule

from anomalib_daad.commands.shared.embedded_picture import View, embed, for_outlines
from anomalib_daad.commands.shared.model_picture import expected_picture, fit, normalise, seen_share
from anomalib_daad.commands.shared.tally import name_verdict
from anomalib_daad.training.judgement_pictures import highlight, outlined
from anomalib_daad.training.reconstruction_training import ReconstructionTraining

from .finding import Finding

WORST = 2  # misses, and as many false alarms
VIEWS = 4  # of an image, at most


class Case(NamedTuple):
    """An image that a model was tested on.

    Attributes:
        name (str): Folder and file.
        verdict (str): What became of it.
        is_wrong (bool): Whether the model judges it wrongly.
        views (list[View]): Pictures of it.
    """

    name: str
    verdict: str
    is_wrong: bool
    views: list[View]


class Gallery(NamedTuple):
    """The most telling images of a model.

    Attributes:
        model (str): Its name.
        told (str): What it finds and rejects.
        misses (list[Case]): Defective images, the least suspicious first.
        alarms (list[Case]): Good images, the most suspicious first.
    """

    model: str
    told: str
    misses: list[Case]
    alarms: list[Case]


def choose(finding: Finding, worst: int = WORST) -> tuple[list[int], list[int]]:
    """Choose the images that a model judges worst, whether or not it errs on them.

    Args:
        finding (Finding): What the model found.
        worst (int): Images of each kind. Defaults to ``2``.

    Returns:
        tuple[list[int], list[int]]: Indices of the defective images with the lowest scores, and of the good ones with
        the highest.
    """
    order = np.argsort(finding.scores, kind="stable")
    misses = [int(index) for index in order if finding.labels[index]]
    alarms = [int(index) for index in order[::-1] if not finding.labels[index]]
    return misses[:worst], alarms[:worst]


def make_galleries(findings: Sequence[Finding], models: Sequence[AnomalibModule], side: int) -> list[Gallery]:
    """Draw the chosen images of every model.

    Args:
        findings (Sequence[Finding]): What models found on one data set.
        models (Sequence[AnomalibModule]): The models, in the same order.
        side (int): Pixels of the longer side of a picture.

    Returns:
        list[Gallery]: One for each model.
    """
    shares = [seen_share(model) for model in models]
    # Of all masks those of the model that sees most of the image.
    widest = sorted(range(len(findings)), key=lambda it: shares[it], reverse=True)
    masks, share = next(
        ((it, shares[n]) for n in widest if (it := findings[n].masks()) is not None), (None, (1.0, 1.0))
    )
    galleries = []
    for finding, model, seen in zip(findings, models, shares, strict=True):
        chosen = choose(finding)
        maps = finding.maps()
        odd = {} if maps is None else _normalised(model, maps, [*chosen[0], *chosen[1]])
        cases = []
        for index in (*chosen[0], *chosen[1]):
            image = read_image(Path(finding.images[index]))
            large = for_outlines(image, side)
            pictures = [("the image", image)]
            if isinstance(model, ReconstructionTraining):
                pictures.append(("what the model expected", expected_picture(model, image)))
            if index in odd:
                pictures.append(("what is odd to it", highlight(large, fit(odd[index], large, seen))))
            if masks is not None and finding.labels[index]:
                pictures.append(("the true defect", outlined(large, fit(masks[index] * 1.0, large, share) > 0.5)))
            cases.append(_case(finding, index, [View(what, embed(picture, side)) for what, picture in pictures]))
        told = "no threshold" if finding.tally is None else str(finding.tally)
        galleries.append(Gallery(finding.name, told, cases[: len(chosen[0])], cases[len(chosen[0]) :]))
    return galleries


def read_image(path: Path) -> np.ndarray:
    """Read an image as anomalib does.

    Args:
        path (Path): Its file.

    Returns:
        np.ndarray: RGB in [0, 1], float32, shape ``(H, W, 3)``.
    """
    return np.asarray(anomalib.data.utils.read_image(path, as_tensor=False), dtype=np.float32)


def _normalised(model: AnomalibModule, maps: np.ndarray, indices: list[int]) -> dict[int, np.ndarray]:
    return dict(zip(indices, normalise(model, maps[indices]), strict=True))


def _case(finding: Finding, index: int, views: list[View]) -> Case:
    path, is_defective = Path(finding.images[index]), bool(finding.labels[index])
    name = f"{path.parent.name}/{path.name}"
    if finding.threshold is None:
        return Case(name, "defective" if is_defective else "good", False, views)
    is_rejected = bool(finding.scores[index] > finding.threshold)
    return Case(name, name_verdict(is_rejected, is_defective), is_rejected != is_defective, views)

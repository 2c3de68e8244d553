# SPDX-License-Identifier: Apache-2.0

"""Some of the images beside what the model makes of them, and its verdict."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anomalib_daad.commands.shared.embedded_picture import View, embed, for_outlines, side_of
from anomalib_daad.commands.shared.model_picture import expected_picture, fit, normalise, seen_share
from anomalib_daad.commands.shared.tally import name_verdict
from anomalib_daad.registration import Model
from anomalib_daad.training.judgement_pictures import highlight, outlined

from .images import InspectedImages
from .observation import Observations, choose, look
from .scores import Threshold

OF_A_KIND = 3
VIEWS = 4  # of an image, at most


class Card(NamedTuple):
    """An image.

    Attributes:
        name (str): Its folder and file name.
        verdict (str): Its score, and what became of it.
        tone (str): ``"good"`` or ``"bad"``; empty where nothing is decided.
        views (list[View]): Pictures of it.
    """

    name: str
    verdict: str
    tone: str
    views: list[View]


def make_cards(
    model: Model, images: InspectedImages, observations: Observations, threshold: Threshold | None
) -> list[Card]:
    """Show some defective images, and then some good ones.

    Args:
        model (Model): Model.
        images (InspectedImages): Images.
        observations (Observations): What the model made of them.
        threshold (Threshold | None): Fused score above which an image is called defective.

    Returns:
        list[Card]: A card for each image.
    """
    chosen = choose(observations, OF_A_KIND)
    labels = observations.labels
    if labels is not None:
        chosen.sort(key=lambda index: not labels[index])
    maps = normalise(model, np.stack([look(model, images[index]).anomaly_map for index in chosen]))
    side, share = side_of(VIEWS * len(chosen)), seen_share(model)
    cards = []
    for index, anomaly_map in zip(chosen, maps, strict=True):
        item = images[index]
        image = item.pixels.permute(1, 2, 0).numpy()
        large = for_outlines(image, side)
        pictures: Sequence[tuple[str, np.ndarray]] = [
            ("the image", image),
            ("what the model expected", expected_picture(model, image)),
            ("what is odd to it", highlight(large, fit(anomaly_map, large, share))),
        ]
        if item.mask is not None and item.mask.any():
            pictures = [*pictures, ("the true defect", outlined(large, item.mask.numpy()))]
        views = [View(what, embed(picture, side)) for what, picture in pictures]
        verdict, tone = _judge(float(observations.fused[index]), threshold, item.defective)
        cards.append(Card(item.name, verdict, tone, views))
    return cards


def _judge(score: float, threshold: Threshold | None, is_defective: bool | None) -> tuple[str, str]:
    if threshold is None:
        return f"score {score:.3g}", ""
    is_rejected = score > threshold.score
    is_bad = is_rejected if is_defective is None else is_rejected != is_defective
    return f"{name_verdict(is_rejected, is_defective)}, score {score:.3g}", "bad" if is_bad else "good"

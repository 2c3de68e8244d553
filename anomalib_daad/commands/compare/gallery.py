# SPDX-License-Identifier: Apache-2.0

"""The most telling test images: the worst misses and the worst false alarms of each model, beside all heat maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anomalib.data.utils
import cv2
import numpy as np
import torch
from anomalib.models import AnomalibModule
from matplotlib import colormaps
from torchvision.transforms.v2 import CenterCrop, Resize

from anomalib_daad.commands.shared import html_page
from anomalib_daad.training.reconstruction_training import ReconstructionTraining

from .finding import Finding

SIDE = 160  # pixels of a tile
WORST = 2  # misses, and as many false alarms, of each model


def choose(findings: Sequence[Finding], worst: int = WORST) -> list[int]:
    """Choose images: of each model in turn the worst misses, then the worst false alarms.

    Args:
        findings (Sequence[Finding]): What models found on one data set.
        worst (int): Misses, and as many false alarms, of each model. Defaults to ``2``.

    Returns:
        list[int]: Indices of images, none twice.
    """
    misses, alarms = [], []
    for finding in findings:
        order = np.argsort(finding.scores, kind="stable")
        misses += [int(index) for index in order if finding.labels[index]][:worst]
        alarms += [int(index) for index in order[::-1] if not finding.labels[index]][:worst]
    return list(dict.fromkeys(misses + alarms))


def gallery(findings: Sequence[Finding], models: Sequence[AnomalibModule]) -> str:
    """Show the chosen images with every model's heat map; of models that rebuild images, what they rebuilt.

    Args:
        findings (Sequence[Finding]): What models found on one data set.
        models (Sequence[AnomalibModule]): The models, in the same order.

    Returns:
        str: HTML.
    """
    maps = [finding.maps() for finding in findings]
    shares = [seen_share(model) for model in models]
    # Of all masks those of the model that sees most of the image.
    widest = sorted(range(len(findings)), key=lambda it: shares[it], reverse=True)
    masks, share = next(
        ((it, shares[n]) for n in widest if (it := findings[n].masks()) is not None), (None, (1.0, 1.0))
    )
    ranges = [None if of_model is None else _range(of_model, findings[0].labels) for of_model in maps]
    rows = []
    for index in choose(findings):
        path = Path(findings[0].images[index])
        picture = read_image(path)  # (H, W, 3)
        truth = "defective" if findings[0].labels[index] else "good"
        tiles = [_tile(picture, f"{path.parent.name}/{path.name}: {truth}", f"Test image {path.name}, {truth}")]
        if masks is not None and findings[0].labels[index]:
            mask = fit(masks[index] * 255.0, picture, share)
            tiles.append(_tile(mask, "where the defect is", "Mask of the defect"))
        for finding, model, of_model, scale, seen in zip(findings, models, maps, ranges, shares, strict=True):
            verdict = _verdict(finding, index)
            if of_model is not None and scale is not None:
                heat = overlay(picture, of_model[index], *scale, seen)
                tiles.append(_tile(heat, f"{finding.name}: {verdict}", f"Heat map of {finding.name}, {verdict}"))
            if isinstance(model, ReconstructionTraining):
                expected = fit(reconstruct(model, picture), picture)
                tiles.append(_tile(expected, f"{finding.name} expected this", f"What {finding.name} expected instead"))
        rows.append(f'<div class="tiles">{"".join(tiles)}</div>')
    return "\n".join(rows)


def read_image(path: Path) -> np.ndarray:
    """Read an image as anomalib does.

    Args:
        path (Path): Its file.

    Returns:
        np.ndarray: RGB, in [0, 255], shape ``(H, W, 3)``.
    """
    return np.asarray(anomalib.data.utils.read_image(path, as_tensor=False), dtype=np.float32) * 255


def seen_share(model: AnomalibModule) -> tuple[float, float]:
    """Share of the image that a model sees: all of it, or the middle where its pre-processor crops.

    Args:
        model (AnomalibModule): Model.

    Returns:
        tuple[float, float]: Of the height and of the width, in (0, 1].
    """
    transform = getattr(model.pre_processor, "transform", None)
    steps = list(getattr(transform, "transforms", [transform]))
    sizes = [_size(step.size) for step in steps if isinstance(step, Resize)]
    crops = [_size(step.size) for step in steps if isinstance(step, CenterCrop)]
    if not sizes or not crops:
        return 1.0, 1.0
    (height, width), (crop_height, crop_width) = sizes[0], crops[-1]
    return min(1.0, crop_height / height), min(1.0, crop_width / width)


def _size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return sides[0], sides[-1]


def overlay(
    picture: np.ndarray, anomaly_map: np.ndarray, low: float, high: float, share: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Lay a heat map over an image.

    Args:
        picture (np.ndarray): RGB, in [0, 255], shape ``(H, W, 3)``.
        anomaly_map (np.ndarray): Shape ``(h, w)``.
        low (float): Value that is shown as nothing.
        high (float): Value that is shown as strongest.
        share (tuple[float, float]): Share of height and width, in the middle, that the map is of.

    Returns:
        np.ndarray: RGB, in [0, 255], shape ``(H, W, 3)``.
    """
    scaled = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0, 1)
    return 0.5 * picture + 0.5 * 255 * colormaps["inferno"](fit(scaled, picture, share))[..., :3]


def fit(values: np.ndarray, picture: np.ndarray, share: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Give what a model saw or made the proportions that the image has.

    Args:
        values (np.ndarray): Shape ``(h, w)`` or ``(h, w, 3)``.
        picture (np.ndarray): Image, shape ``(H, W, 3)``.
        share (tuple[float, float]): Share of height and width, in the middle, that was seen; around it there are zeros.

    Returns:
        np.ndarray: Shape ``(H, W)`` or ``(H, W, 3)``.
    """
    height, width = (max(1, round(side * part)) for side, part in zip(picture.shape[:2], share, strict=True))
    seen = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    if seen.shape[:2] == picture.shape[:2]:
        return np.asarray(seen)
    whole = np.zeros((*picture.shape[:2], *seen.shape[2:]), seen.dtype)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    whole[top : top + height, left : left + width] = seen
    return whole


@torch.no_grad()
def reconstruct(model: Any, picture: np.ndarray) -> np.ndarray:
    """Show what a model expected in place of an image.

    Args:
        model (Any): Model of this package.
        picture (np.ndarray): RGB, in [0, 255], shape ``(H, W, 3)``.

    Returns:
        np.ndarray: RGB, in [0, 255], shape ``(h, w, 3)``.
    """
    pixels = torch.from_numpy(picture / 255).permute(2, 0, 1)[None].to(model.device)  # (1, 3, H, W)
    expected = model.model.explain(model.pre_processor(pixels)).expected[0]
    return (((expected + 1) / 2).clamp(0, 1) * 255).permute(1, 2, 0).float().cpu().numpy()


def _range(maps: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Values that heat maps are coloured between: from what half of the good pixels exceed to the strongest."""
    good = maps[~labels] if not labels.all() else maps
    return float(np.median(good)), float(np.quantile(maps, 0.999))


def _verdict(finding: Finding, index: int) -> str:
    if finding.threshold is None:
        return "no threshold"
    rejected, defective = finding.scores[index] > finding.threshold, finding.labels[index]
    if rejected == defective:
        return "found" if defective else "passed"
    return "MISSED" if defective else "FALSE ALARM"


def _tile(picture: np.ndarray, caption: str, alt: str) -> str:
    scale = SIDE / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    small = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_AREA).clip(0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", small[..., ::-1] if small.ndim == 3 else small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    shown = html_page.image(encoded.tobytes(), "jpeg", alt)
    return f"<figure>{shown}<figcaption>{html_page.breakable(caption)}</figcaption></figure>"

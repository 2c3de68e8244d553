# SPDX-License-Identifier: Apache-2.0

"""What a program must know of an export to use it without this package: ``model.json`` beside the model's file."""

import json
import math
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .false_alarms import FalseAlarmPostProcessor

FORMAT = 1
OUTPUTS = {
    "pred_score": "anomaly score in [0, 1]; an image above image_threshold is defective",
    "pred_label": "whether the image is defective",
    "anomaly_map": "anomaly score of each pixel in [0, 1], scaled so that pixel_threshold divides good from odd",
    "pred_mask": "whether each pixel is odd",
}


def write_description(model: Any, files: Sequence[Path], input_size: Sequence[int] | None) -> Path:
    """Write what an export is, what goes in and comes out, and where its thresholds lie.

    ``threshold + (score - 0.5) * range`` is the score that the network gave, where the exported one is not 0 or 1.
    The p-value of a score is ``(1 + k) / (1 + n)`` with k of the n ``good_scores`` at least as large.

    Args:
        model (Any): Model that was exported.
        files (Sequence[Path]): Files of the export; the first names the description.
        input_size (Sequence[int] | None): Height and width that the export is fixed to; ``None`` for images of any
            size, which it resizes itself.

    Returns:
        Path: The description, a JSON file beside the first file.
    """
    path = files[0].with_suffix(".json")
    description = {
        "format": FORMAT,
        "anomalib_daad": _version(),
        "model": type(model).__name__,
        "file": files[0].name,
        "sha256": {file.name: checksum(file) for file in files},
        "input": {
            "layout": "NCHW",
            "colours": "RGB",
            "type": "float32",
            "range": [0, 1],
            "height": input_size[0] if input_size else None,
            "width": input_size[1] if input_size else None,
        },
        "network_size": list(model.model.image_size),
        "outputs": OUTPUTS,
        **describe_thresholds(model.post_processor),
    }
    path.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return path


def read_description(file: Path) -> dict[str, Any] | None:
    """Read what is said of an export.

    Args:
        file (Path): The export's first file.

    Returns:
        dict[str, Any] | None: The description; None where there is none.

    Raises:
        ValueError: If the description is of another file.
    """
    path = file.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = description["sha256"][file.name]
    except (ValueError, KeyError, TypeError):
        return None  # another program's
    if known != checksum(file):
        msg = f"{path} describes another file than {file}, which was changed or replaced: export the model again."
        raise ValueError(msg)
    return description


def raw_score(raw: dict[str, float], score: float) -> float:
    """Tell the score that a network gave.

    Args:
        raw (dict[str, float]): What a description says of it.
        score (float): Score of the export; 0 and 1 stand for all below and above.

    Returns:
        float: Score before it was scaled.
    """
    return raw["image_threshold"] + (score - 0.5) * raw["image_range"]


def describe_thresholds(post_processor: Any) -> dict[str, Any]:
    """Tell where thresholds lie, and what they promise.

    Args:
        post_processor (Any): Post-processor, or None.

    Returns:
        dict[str, Any]: Numbers; None for those that the post-processor does not know.
    """
    known: dict[str, Any] = dict.fromkeys(
        ("image_threshold", "pixel_threshold", "false_alarm_rate", "promised_rate", "good_images", "raw")
    )
    known["good_scores"] = []
    if post_processor is None or not post_processor.enable_thresholding:
        return known
    ranges = {"image": (post_processor.image_min, post_processor.image_max)}
    ranges["pixel"] = (post_processor.pixel_min, post_processor.pixel_max)
    known |= {
        "image_threshold": _number(post_processor.normalized_image_threshold),
        "pixel_threshold": _number(post_processor.normalized_pixel_threshold),
        "raw": {
            **{f"{kind}_threshold": _number(getattr(post_processor, f"{kind}_threshold")) for kind in ranges},
            **{f"{kind}_range": _number(high - low) for kind, (low, high) in ranges.items()},
        },
    }
    if isinstance(post_processor, FalseAlarmPostProcessor) and int(post_processor.good_images):
        kept = post_processor.good_scores[post_processor.good_scores.isfinite()]
        known |= {
            "false_alarm_rate": post_processor.false_alarm_rate,
            "promised_rate": post_processor.promised_rate,
            "good_images": int(post_processor.good_images),
            "good_scores": [round(float(it), 7) for it in post_processor.normalize_scores(kept)],
        }
    return known


def checksum(file: Path) -> str:
    """Tell a file from others.

    Args:
        file (Path): File.

    Returns:
        str: Its SHA-256.
    """
    return sha256(file.read_bytes()).hexdigest()


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _version() -> str:
    try:
        return version("anomalib-daad")
    except PackageNotFoundError:
        return "unknown"

# SPDX-License-Identifier: Apache-2.0

"""New thresholds from good images, without training, for a new light or camera."""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from anomalib_daad.commands.shared.image_files import read_pixels, readable_images
from anomalib_daad.commands.shared.new_model_file import COMPANIONS, Save, refuse_other_targets, write_model
from anomalib_daad.commands.shared.opened_model import Images
from anomalib_daad.commands.shared.progress_bar import tracked
from anomalib_daad.commands.shared.trained_model import refuse_no_model
from anomalib_daad.training.conformal_threshold import Rates, images_for, promised_rate, refuse_other_rates
from anomalib_daad.training.export_description import checksum, raw_score, read_description

from .linear_scale import describe, measure
from .outcome import Outcome
from .trained_model import TrainedModel

logger = logging.getLogger(__name__)


def calibrate(
    model: Path,
    good: Path,
    false_alarm_rate: float = 0.01,
    pixel_false_alarm_rate: float = 0.001,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Take a model's thresholds anew from good images, without training, for example under a new light or camera.

    The promise holds for images like the given ones: give good images that were not trained on. A checkpoint also
    takes its ranges, and a DaadRestoration the statistics of its maps, from 20 images or more. Of an export thresholds
    alone are changed. The model is written to a new file beside the old one.

    Args:
        model: Checkpoint or safetensors file of a model of this package, or its ONNX or OpenVINO export.
        good: Folder of good images that were not trained on; it is searched with all its subfolders.
        false_alarm_rate: Share of good images that may be rejected.
        pixel_false_alarm_rate: Share of good images' pixels that may be marked.
        output: File to write; beside the model, with _calibrated in its name, if not given.
        overwrite: Replace the file to write.

    Raises:
        ValueError: If a rate is none, the model or the images are not there or cannot be used, or the file to write is.
        OSError: If the file cannot be written.
    """
    refuse_other_rates(false_alarm_rate=false_alarm_rate, pixel_false_alarm_rate=pixel_false_alarm_rate)
    rates = Rates(false_alarm_rate, pixel_false_alarm_rate)
    _refuse_other_models(model)
    target = output or model.with_name(f"{model.stem}_calibrated{model.suffix}")
    refuse_other_targets(model, target, overwrite)
    files = readable_images(good)
    try:
        outcome, save = (_calibrate_export if model.suffix in COMPANIONS else _calibrate_trained)(model, files, rates)
    except ValueError as error:
        msg = str(error) if str(model) in str(error) else f"{model} cannot be calibrated: {error}"
        raise ValueError(msg) from error
    write_model(save, target)
    _tell(outcome, len(files), rates, target)


def _refuse_other_models(model: Path) -> None:
    refuse_no_model(model)
    if model.suffix == ".pt":
        msg = f"{model} is a pickle, whose code is fixed: calibrate its checkpoint, and export that again."
        raise ValueError(msg)


def _calibrate_trained(path: Path, files: list[Path], rates: Rates) -> tuple[Outcome, Save]:
    opened = TrainedModel(path)
    return opened.calibrate(Images(files, read_pixels), rates, tracked), opened.save


def _calibrate_export(path: Path, files: list[Path], rates: Rates) -> tuple[Outcome, Save]:
    description = _description(path)
    opened = _open_export(path)
    try:
        with closing(tracked(files, "Judging")) as followed:  # also where an image stops it
            measured = measure(opened.run, map(read_pixels, followed), opened.limits, rates)
    except RuntimeError as error:  # of both runtimes, of images of another size than a fixed one
        size = [description["input"][side] for side in ("width", "height")]
        msg = f"it does not take one of the images; its input is fixed to {size[0]}x{size[1]} pixels."
        raise ValueError(msg if None not in size else f"it cannot be run: {error}") from error
    opened.rescale(measured.scales)
    content = describe(description, measured, opened.limits, rates)
    outcome, raw = measured.outcome, description["raw"] or {}
    if raw.get("image_threshold") is not None:
        outcome = outcome._replace(before=raw["image_threshold"], after=raw_score(raw, outcome.after))

    def save(target: Path) -> list[Path]:
        written = opened.save(target)
        named = {"file": target.name, "sha256": {it.name: checksum(it) for it in written}}
        target.with_suffix(".json").write_text(json.dumps({**content, **named}, indent=1), encoding="utf-8")
        return [*written, target.with_suffix(".json")]

    return outcome, save


def _open_export(path: Path) -> Any:
    try:
        if path.suffix == ".onnx":
            from .onnx_export import OnnxExport

            return OnnxExport(path)
        from .openvino_export import OpenvinoExport

        return OpenvinoExport(path)
    except ImportError as error:
        msg = f'{path} needs its runtime to be calibrated: pip install "anomalib-daad[openvino]".'
        raise ValueError(msg) from error


def _description(path: Path) -> dict[str, Any]:
    description = read_description(path)
    if description is None:
        msg = f"{path} is no export of this package, which writes {path.with_suffix('.json')} beside it: export a "
        msg += "trained model again."
        raise ValueError(msg)
    return description


def _tell(outcome: Outcome, given: int, rates: Rates, target: Path) -> None:
    promised = promised_rate(outcome.judged, rates.images)
    if promised > rates.images:
        is_split = outcome.relearnt > 0 and outcome.relearnt + outcome.judged <= given
        logger.warning(
            "%d good images decide on the threshold: it can promise that at most %.1f%% of good images are rejected, "
            "not %.4g%%, which takes %d%s. Give more of them, or another --false-alarm-rate.",
            outcome.judged,
            100 * promised,
            100 * rates.images,
            images_for(rates.images),
            ", and as many for statistics" if is_split else "",
        )
    lines = [f"Good images: {given}, of which {outcome.judged} decide on the threshold"]
    if outcome.relearnt:
        lines.append(f"Statistics and ranges: learnt anew from {outcome.relearnt} of them")
    if outcome.rejected is None:
        lines.append("Threshold before: none")
    else:
        judged = given if outcome.relearnt else outcome.judged
        lines.append(f"Threshold before: {outcome.before:.4g}, which rejects {outcome.rejected} of {judged}")
    lines.append(f"Threshold now: {outcome.after:.4g}, which rejects at most {100 * promised:.3g}% on average")
    lines.append(f"Model: {target}")
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(Text(line))

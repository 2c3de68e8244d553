# SPDX-License-Identifier: Apache-2.0

"""A short further training on good images of a new kind: another light, a new batch of material."""

import logging
from pathlib import Path

from rich.console import Console
from rich.text import Text

from anomalib_daad.commands.shared.image_files import read_pixels, readable_images
from anomalib_daad.commands.shared.new_model_file import COMPANIONS, refuse_other_targets, write_model
from anomalib_daad.commands.shared.opened_model import Images
from anomalib_daad.commands.shared.progress_bar import tracked
from anomalib_daad.commands.shared.trained_model import refuse_no_model
from anomalib_daad.training.conformal_threshold import Rates, images_for, promised_rate, refuse_other_rates

from .updated_model import Outcome, UpdatedModel

logger = logging.getLogger(__name__)
FEWEST = 4  # images: two to train on, two for the threshold
MOST_NAMED = 5


def update(
    checkpoint: Path,
    good: Path,
    old: Path | None = None,
    false_alarm_rate: float = 0.01,
    pixel_false_alarm_rate: float = 0.001,
    seed: int = 0,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Add a new kind of good images to a trained DaadRestoration: another light, a new batch of material.

    Every second image is trained on for a short while; the others decide on the threshold, which is never lowered. Give
    good images of the old kind with --old wherever there are some: half of each batch is then of them. The model is
    written to a new file beside the old one.

    Args:
        checkpoint: Checkpoint or safetensors file of a DaadRestoration.
        good: Folder of good images of the new kind, none of them trained on; it is searched with all its subfolders.
        old: Folder of good images of the old kind, such as those of the training, likewise.
        false_alarm_rate: Share of good images of the new kind that may be rejected.
        pixel_false_alarm_rate: Share of their pixels that may be marked.
        seed: Makes the training repeatable.
        output: File to write; beside the checkpoint, with _updated in its name, if not given.
        overwrite: Replace the file to write.

    Raises:
        ValueError: If a rate is none, the model or the images are not there or cannot be used, or the file to write is.
        OSError: If the file cannot be written.
    """
    refuse_other_rates(false_alarm_rate=false_alarm_rate, pixel_false_alarm_rate=pixel_false_alarm_rate)
    rates = Rates(false_alarm_rate, pixel_false_alarm_rate)
    _refuse_exports(checkpoint)
    target = output or checkpoint.with_name(f"{checkpoint.stem}_updated{checkpoint.suffix}")
    refuse_other_targets(checkpoint, target, overwrite)
    new_files, old_files = _enough(good), _enough(old) if old else []
    if both := set(_resolved(new_files)) & set(_resolved(old_files)):
        msg = f"{min(both)} is given as new and as old: give --good images of the new kind alone."
        raise ValueError(msg)
    try:
        opened = UpdatedModel(checkpoint)
        outcome = opened.update(Images(new_files, read_pixels), old_files, rates, seed, tracked)
    except ValueError as error:
        msg = str(error) if str(checkpoint) in str(error) else f"{checkpoint} cannot be updated: {error}"
        raise ValueError(msg) from error
    write_model(opened.save, target)
    _tell(outcome, rates, good, target)


def _refuse_exports(checkpoint: Path) -> None:
    refuse_no_model(checkpoint)
    if checkpoint.suffix in {*COMPANIONS, ".pt"}:
        msg = f"{checkpoint} is an export, which learns no more: update its checkpoint, and export that again."
        raise ValueError(msg)


def _enough(folder: Path) -> list[Path]:
    files = readable_images(folder)
    if len(files) < FEWEST:
        msg = f"{folder} has {len(files)} image(s) that can be read: give {FEWEST} at least, half of which are trained "
        msg += "on; 20 and more say something of new ones."
        raise ValueError(msg)
    return files


def _resolved(files: list[Path]) -> list[Path]:
    return [file.resolve() for file in files]


def _tell(outcome: Outcome, rates: Rates, good: Path, target: Path) -> None:
    promised = promised_rate(outcome.deciding, rates.images)
    if promised > rates.images:
        logger.warning(
            "%d good images decide on the threshold: it can promise that at most %.1f%% of good images of the new kind "
            "are rejected, not %.4g%%, which takes %d, and as many to train on. Give more of them, or another "
            "--false-alarm-rate.",
            outcome.deciding,
            100 * promised,
            100 * rates.images,
            images_for(rates.images),
        )
    new, old = outcome.new, outcome.old
    lines = [f"New good images: {new.judged}, of which {outcome.deciding} decide on the threshold, others are learnt"]
    if outcome.before is None:
        lines.append("Threshold before: none")
    else:
        lines.append(f"Threshold before: {outcome.before:.4g}, which rejects {new.before} of {new.judged}")
    lines.append(
        f"Threshold now: {outcome.after:.4g}, which rejects {new.after} of {new.judged}, and of further ones at most "
        f"{100 * promised:.3g}% on average"
    )
    if old is None:
        lines.append("Old good images: none; give some with --old to hold the model to them")
    else:
        lines.append(
            f"Old good images beside those learnt: {old.judged}, {old.before} rejected before, {old.after} now"
        )
    lines.append(_name_odd(outcome, good))
    lines.append(f"Model: {target}")
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(Text(line))


def _name_odd(outcome: Outcome, good: Path) -> str:
    limit = "now" if outcome.before is None else "before"
    if not outcome.odd:
        return f"Still odd, above the threshold {limit}: none"
    names = ", ".join(str(path.relative_to(good)) for path in outcome.odd[:MOST_NAMED])
    more = f" and {len(outcome.odd) - MOST_NAMED} more" if len(outcome.odd) > MOST_NAMED else ""
    return f"Still odd, above the threshold {limit}: {names}{more}; a defect among them would let others pass"

# SPDX-License-Identifier: Apache-2.0

"""A changed model's file: never in the place of the old model, and there whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .output_folder import prepare_folder

COMPANIONS = {".onnx": ".onnx.data", ".xml": ".bin"}  # of exports

Save = Callable[[Path], list[Path]]


def refuse_other_targets(model: Path, target: Path, overwrite: bool) -> None:
    """Refuse to write where something is that must be kept.

    Args:
        model (Path): The old model.
        target (Path): File of the new one.
        overwrite (bool): What is there may be replaced, unless it is the old model.

    Raises:
        ValueError: If the new file has another form, or would take the place of another.
    """
    files = _files(target)
    if target.suffix != model.suffix:
        msg = f"{target} has another ending than {model}, whose form it keeps: give a name that ends in {model.suffix}."
    elif {it.resolve() for it in files} & {it.resolve() for it in _files(model)}:
        msg = f"{target} would take the place of {model}, which is kept: give another --output."
    elif not overwrite and (there := [it for it in files if it.exists()]):
        msg = f"{there[0]} is there already: give another --output, or --overwrite to replace it."
    else:
        return
    raise ValueError(msg)


def write_model(save: Save, target: Path) -> None:
    """Write files beside their places, and put all of them there, the model itself last but its description.

    Args:
        save (Save): Writes the model and what belongs to it, and tells which files those are.
        target (Path): File of the model.

    Raises:
        OSError: If it cannot be written.
    """
    prepare_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".anomalib-daad") as folder:
        written = save(Path(folder) / target.name)
        for file in sorted(written, key=lambda it: (it.suffix == ".json", it.name == target.name)):
            shutil.move(file, target.with_name(file.name))


def _files(model: Path) -> list[Path]:
    """Files that a model may have."""
    if model.suffix not in COMPANIONS:
        return [model]
    return [model, model.with_suffix(COMPANIONS[model.suffix]), model.with_suffix(".json")]

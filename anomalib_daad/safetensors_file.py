# SPDX-License-Identifier: Apache-2.0

"""A trained model as one safetensors file: weights, ranges, thresholds and constructor arguments, and no code.

A checkpoint is a pickle, which PyTorch reads without running code unless it is told otherwise; a safetensors file
cannot hold any. What does not fit, or was changed after it was written, is refused. The digest in the file finds
damage; it is no signature, which a stranger's file would need.

Example:
    >>> from anomalib_daad import Daad
    >>> model = Daad(image_size=(32, 32), division_rates=(2, 2, 1), base_channels=4)
    >>> path = save_safetensors(model, "model.safetensors")  # doctest: +SKIP
    >>> engine.predict(load_safetensors(path), data_path="parts")  # doctest: +SKIP
"""

import json
import os
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .registration import MODELS, Model
from .training.checkpoint_content import FORMAT, is_read

# Ranges and thresholds are NaN in a model that was not calibrated.
_MAY_BE_NAN = (
    *("post_processor.", "model.score.", "model.placement.growth"),
    *("model.registration.recall", "model.registration.likeness"),
)


def save_safetensors(model: Model, path: str | Path) -> Path:
    """Write a model to a file, whole or not at all.

    Args:
        model (Model): Model, with its own pre-processor.
        path (str | Path): File to write.

    Returns:
        Path: The file.

    Raises:
        ValueError: If the model has a pre-processor of another kind, which would not be in the file.
    """
    name, path = type(model).__name__, Path(path)
    if name not in MODELS or not _has_its_own_pre_processor(model):
        msg = f"Only {', '.join(MODELS)} with their own pre-processor can be saved, got {name} with another one: it "
        msg += "would not be in the file."
        raise ValueError(msg)
    post_processor: Any = model.post_processor
    try:
        plugin = version("anomalib-daad")
    except PackageNotFoundError:
        plugin = "unknown"
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": str(FORMAT),
        "anomalib_daad": plugin,
        "model": name,
        "arguments": json.dumps(dict(model.hparams), sort_keys=True),
        "post_processor": json.dumps(post_processor.checkpoint_config()),
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, draft, {**metadata, "sha256": _digest(tensors, metadata)})
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def load_safetensors(path: str | Path) -> Model:
    """Read a model from a file.

    Args:
        path (str | Path): File that :func:`save_safetensors` wrote.

    Returns:
        Model: The model in evaluation mode, on the CPU.

    Raises:
        ValueError: If the file is not one, was changed or damaged, is of another format, or does not fit its own
            description.
    """
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dictionary
    except (OSError, SafetensorError) as error:
        msg = f"{path} is not a readable safetensors file: {error}."
        raise ValueError(msg) from error
    digest = metadata.pop("sha256", None)
    name, format_ = metadata.get("model"), str(metadata.get("format"))
    if name not in MODELS or not format_.isdecimal() or not is_read(name, int(format_)):
        msg = f"{path} is not a model that this version of anomalib-daad saved: its format is "
        msg += f"{format_}, that of this version {FORMAT}; train the model again."
        raise ValueError(msg)
    if digest != _digest(tensors, metadata):
        msg = f"{path} was changed or damaged after it was saved; get the file again from where it came."
        raise ValueError(msg)
    model = _build(path, metadata, tensors)
    model.make_room(tensors)
    model.load_state_dict(model.complete(tensors))
    post_processor: Any = model.post_processor
    post_processor.load_checkpoint_config(json.loads(metadata["post_processor"]))
    return model.eval()


def _build(path: str | Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> Model:
    """Build the model that a file describes, after a look at its size."""
    model_class = MODELS[metadata["model"]]
    try:
        arguments: dict[str, Any] = json.loads(metadata["arguments"])
        if unknown := arguments.keys() - signature(model_class).parameters.keys():
            msg = f"{path} has arguments that {metadata['model']} does not know: {', '.join(sorted(unknown))}."
            raise ValueError(msg)
        with torch.device("meta"):  # takes no memory, whatever the arguments say
            described = model_class(**arguments)
            described.make_room(tensors)
            expected, completed = described.state_dict(), described.complete(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        msg = f"{path} does not describe a model that can be built: {error}."
        raise ValueError(msg) from error
    for key in sorted(expected.keys() | completed.keys()):
        ours, theirs = ((it[key].dtype, tuple(it[key].shape)) if key in it else None for it in (expected, completed))
        if ours != theirs:
            msg = f"{path} does not fit its own description: {key} is {theirs or 'missing'}, expected {ours or 'none'}."
            raise ValueError(msg)
        if key in tensors and not key.startswith(_MAY_BE_NAN) and not tensors[key].isfinite().all():
            msg = f"{path} holds weights that are NaN or infinite, in {key}; save the model from a good checkpoint."
            raise ValueError(msg)
    return model_class(**arguments)


def _has_its_own_pre_processor(model: Any) -> bool:
    own = model.configure_pre_processor(tuple(model.model.image_size))
    # That of a checkpoint names its interpolation by the enumeration, a new one by its value.
    return _described(model.pre_processor) == _described(own)


def _described(pre_processor: Any) -> str:
    return str(pre_processor).replace("InterpolationMode.BILINEAR", "bilinear")


def _digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

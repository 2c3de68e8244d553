# SPDX-License-Identifier: Apache-2.0

"""Trained models, read from their files."""

from pathlib import Path
from typing import Any

import torch

from anomalib_daad.registration import MODELS, Model
from anomalib_daad.safetensors_file import load_safetensors
from anomalib_daad.training.checkpoint_content import model_name
from anomalib_daad.training.checkpoint_file import WholeCheckpointIO


def load_model(path: Path) -> Model:
    """Read a trained model, on the GPU where there is one.

    Args:
        path (Path): Lightning checkpoint of one of this package's models.

    Returns:
        Model: The model in evaluation mode.

    Raises:
        ValueError: If there is no such file, or it is not such a checkpoint.
    """
    if not path.is_file():
        msg = f"There is no checkpoint {path}: give the file that training wrote, such as weights/lightning/model.ckpt."
        raise ValueError(msg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Of what no model of this package wrote, the first says what is wrong.
        name = model_name(WholeCheckpointIO().load_checkpoint(path, map_location="cpu"))
        return (
            MODELS.get(name or "", next(iter(MODELS.values()))).load_from_checkpoint(path, map_location=device).eval()
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        msg = reason if str(path) in reason else f"{path}: {reason}"
        raise ValueError(msg) from error


def load_trained(path: Path) -> Model:
    """Read a trained model, from whichever file it lies in.

    Args:
        path (Path): Safetensors file or Lightning checkpoint of one of this package's models.

    Returns:
        Model: The model in evaluation mode.

    Raises:
        ValueError: If there is no such file, or it is none of these.
    """
    return load_safetensors(path) if path.suffix == ".safetensors" else load_model(path)


def refuse_no_model(path: Path) -> None:
    """Refuse what is no file of a model.

    Args:
        path (Path): Checkpoint, safetensors file or export.

    Raises:
        ValueError: If there is no such file, or it holds weights alone.
    """
    if not path.is_file():
        msg = f"There is no model {path}: give a checkpoint, such as weights/lightning/model.ckpt, or an export."
        raise ValueError(msg)
    if path.suffix == ".bin":
        msg = f"{path} holds an OpenVINO model's weights alone: give {path.with_suffix('.xml')}."
        raise ValueError(msg)


@torch.no_grad()
def name_divisions(model: Any) -> str:
    """Name a model by the division rate of its memories.

    Args:
        model (Any): Model of this package.

    Returns:
        str: Such as ``"8x8x1"``; ``"pixels"`` for memories of single pixels; ``"no memory"``.
    """
    network = model.model
    reads = network.explain(torch.zeros(1, 3, *network.image_size, device=model.device)).reads
    if not reads:
        return "no memory"
    if all(read.grid == (*read.features.shape[-2:], 1) for read in reads):
        return "pixels"
    return "x".join(map(str, reads[0].grid))

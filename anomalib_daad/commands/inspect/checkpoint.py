# SPDX-License-Identifier: Apache-2.0

"""Trained models, read from Lightning checkpoints."""

import pickle
from pathlib import Path

import torch

from anomalib_daad.models.daad.lightning_model import Daad


def load_model(path: Path) -> Daad:
    """Read a trained model, on the GPU where there is one.

    Args:
        path (Path): Lightning checkpoint of a Daad model.

    Returns:
        Daad: The model in evaluation mode.

    Raises:
        ValueError: If there is no such file, or it is not such a checkpoint.
    """
    if not path.is_file():
        msg = f"There is no checkpoint {path}: give the file that training wrote, such as weights/lightning/model.ckpt."
        raise ValueError(msg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return Daad.load_from_checkpoint(path, map_location=device, weights_only=True).eval()
    except ValueError as error:
        reason = " ".join(str(error).split())
        msg = reason if str(path) in reason else f"{path}: {reason}"
        raise ValueError(msg) from error
    except (AttributeError, EOFError, KeyError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        msg = f"{path} is not a Lightning checkpoint of a Daad model: give the file that its training wrote."
        raise ValueError(msg) from error


def name_divisions(model: Daad) -> str:
    """Name a model by the division rate of its memories.

    Args:
        model (Daad): Model.

    Returns:
        str: Such as ``"8x8x1"``; ``"pixels"`` for memories of single pixels; ``"no memory"``.
    """
    if model.hparams["connections"] in {"none", "skip"}:
        return "no memory"
    rates = model.hparams["division_rates"]
    return "pixels" if rates is None else "x".join(map(str, rates))

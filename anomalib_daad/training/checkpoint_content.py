# SPDX-License-Identifier: Apache-2.0

"""What stands in a checkpoint beside the weights, and checkpoints that do not fit a model."""

from pathlib import Path
from typing import Any

import torch
from anomalib.models.components import AnomalibModule

from .checkpoint_file import WholeCheckpointIO
from .lightning_internals import Module

FORMAT = 2  # of the models: 1 had restoration training as arguments of Daad
KEY = "anomalib_daad"


def model_name(checkpoint: dict[str, Any]) -> str | None:
    """Tell which model a checkpoint is of.

    Args:
        checkpoint (dict[str, Any]): What the file holds.

    Returns:
        str | None: Name of the class, such as ``"Daad"``; None where it is none of this package.
    """
    return _header(checkpoint).get("model")


def _header(checkpoint: dict[str, Any]) -> dict[str, Any]:
    header = checkpoint.get(KEY)
    return header if isinstance(header, dict) else {}


class CheckedCheckpoints(Module):
    """Writes which model a checkpoint is of, and refuses one that does not fit, in one sentence."""

    _validated: bool

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model from a checkpoint that is whole.

        Args:
            checkpoint_path (Any): Checkpoint.
            args: As anomalib's.
            kwargs: As anomalib's.

        Returns:
            Any: The model.

        Raises:
            ValueError: If the file is damaged, is no checkpoint, or is one of another model.
        """
        if isinstance(checkpoint_path, str | Path) and kwargs.get("weights_only", True):
            reader = WholeCheckpointIO(cls.checkpoint_safe_globals())
            cls._refuse_other_models(reader.load_checkpoint(checkpoint_path, map_location="cpu"))
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save also which model it is, and whether validation has set the ranges.

        Args:
            checkpoint (dict[str, Any]): Checkpoint to add to.
        """
        super().on_save_checkpoint(checkpoint)
        # A subclass of a user's is loaded as the model that it is made of.
        name = next(base.__name__ for base in type(self).__mro__ if AnomalibModule in base.__bases__)
        checkpoint[KEY] = {"format": FORMAT, "model": name, "validated": self._validated}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, before PyTorch lists every key.

        Args:
            checkpoint (dict[str, Any]): Checkpoint to load from.

        Raises:
            ValueError: If the checkpoint is of another model, version or architecture.
        """
        self._refuse_other_models(checkpoint)
        self._refuse_other_shapes(checkpoint)
        super().on_load_checkpoint(checkpoint)
        self._validated = bool(_header(checkpoint).get("validated", True))

    @classmethod
    def _refuse_other_models(cls, checkpoint: dict[str, Any]) -> None:
        name, format_ = model_name(checkpoint), _header(checkpoint).get("format", 1)
        if name is None and "daad_validated" not in checkpoint:
            msg = f"The checkpoint does not fit {cls.__name__}: it was saved by another kind of model."
        elif format_ != FORMAT:
            msg = (
                f"The checkpoint was trained by another version of anomalib-daad (format {format_}, here {FORMAT}), "
                "which built its models otherwise: train the model again."
            )
        elif name not in {base.__name__ for base in cls.__mro__}:
            msg = f"The checkpoint does not fit {cls.__name__}: it is one of {name}; load it with {name}."
        else:
            return
        raise ValueError(msg)

    def _refuse_other_shapes(self, checkpoint: dict[str, Any]) -> None:
        def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
            return {key: value.shape for key, value in state.items() if key.startswith("model.")}

        if shapes(checkpoint["state_dict"]) == shapes(self.state_dict()):
            return
        saved = checkpoint.get("hyper_parameters", {})
        differing = [key for key in self.hparams if key in saved and _plain(saved[key]) != _plain(self.hparams[key])]
        reason = ", ".join(f"{key}={saved[key]} in the checkpoint, {self.hparams[key]} here" for key in differing)
        msg = f"The checkpoint does not fit this {type(self).__name__}: {reason or 'its weights have other shapes'}. "
        msg += "Build the model with the arguments that it was trained with, or load another checkpoint."
        raise ValueError(msg)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

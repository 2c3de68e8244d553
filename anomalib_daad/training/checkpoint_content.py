# SPDX-License-Identifier: Apache-2.0

"""What stands in a checkpoint beside the weights, and checkpoints that do not fit a model."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.models.components import AnomalibModule

from .checkpoint_file import WholeCheckpointIO
from .lightning_internals import Module

logger = logging.getLogger(__name__)

# Of the models: 1 had restoration training as arguments of Daad; 2 other memories, but for restoration training.
FORMAT = 3
KEY = "anomalib_daad"
USED_AS_TRAINED = "The checkpoint was trained with %s: its model is used as it was trained."


def model_name(checkpoint: dict[str, Any]) -> str | None:
    """Tell which model a checkpoint is of.

    Args:
        checkpoint (dict[str, Any]): What the file holds.

    Returns:
        str | None: Name of the class, such as ``"Daad"``; None where it is none of this package.
    """
    return _header(checkpoint).get("model")


def is_read(model: str | None, format_: int) -> bool:
    """Tell whether this version builds a model as the version that wrote a file did.

    Args:
        model (str | None): Name of the class.
        format_ (int): Format of the file.

    Returns:
        bool: True for today's format and earlier ones that meant the same.
    """
    return format_ == FORMAT or (model, format_) == ("DaadRestoration", 2)


def _header(checkpoint: dict[str, Any]) -> dict[str, Any]:
    header = checkpoint.get(KEY)
    return header if isinstance(header, dict) else {}


class CheckedCheckpoints(Module):
    """Writes which model a checkpoint is of, and lets it decide what the model is.

    A model whose arguments are others than those of the checkpoint becomes what was trained, with a warning: scores of
    other arguments would pass defects without a word. A checkpoint that does not fit is refused in one sentence.

    Attributes:
        of_training_alone (frozenset[str]): Arguments that change a training and no score.
    """

    model: Any
    of_training_alone: ClassVar[frozenset[str]] = frozenset()
    _validated: bool

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model from a checkpoint that is whole.

        Args:
            checkpoint_path (Any): Checkpoint.
            args: As anomalib's.
            kwargs: As anomalib's.

        Returns:
            Any: The model in evaluation mode.

        Raises:
            ValueError: If the file is damaged, is no checkpoint, or is one of another model.
        """
        if isinstance(checkpoint_path, str | Path) and kwargs.get("weights_only", True):
            reader = WholeCheckpointIO(cls.checkpoint_safe_globals())
            content = reader.load_checkpoint(checkpoint_path, map_location="cpu")
            cls._refuse_other_models(content)
            theirs = cls._network_arguments(content.get("hyper_parameters", {}))
            ours = cls._network_arguments({name: value for name, value in kwargs.items() if name in theirs})
            if differing := [name for name in ours if ours[name] != theirs[name]]:
                logger.warning(USED_AS_TRAINED, _describe(differing, theirs, ours))
                kwargs = {name: value for name, value in kwargs.items() if name not in differing}
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs).eval()

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
        self._take_arguments(checkpoint.get("hyper_parameters", {}))
        self.make_room(checkpoint["state_dict"])
        checkpoint["state_dict"] = self.complete(checkpoint["state_dict"])
        self._refuse_other_shapes(checkpoint)
        super().on_load_checkpoint(checkpoint)
        self._validated = bool(_header(checkpoint).get("validated", True))

    def make_room(self, state: Mapping[str, torch.Tensor]) -> None:
        """Give the network what only some trained ones have: a region that it ignores.

        Args:
            state (Mapping[str, torch.Tensor]): State of a model.
        """
        is_there = "model.ignored" in state
        self.model.ignored = torch.zeros(1, 1, *self.model.image_size, dtype=torch.bool) if is_there else None

    def complete(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add to a state what earlier versions did not save: of thresholds, that they are from no good images alone.

        Args:
            state (dict[str, torch.Tensor]): State of a model.

        Returns:
            dict[str, torch.Tensor]: State of a model of this version that judges alike.
        """
        if not any(key.startswith("post_processor.") for key in state):
            return state
        own = {key: value for key, value in self.state_dict().items() if key.startswith("post_processor.good_")}
        return {**own, **state}

    @classmethod
    def _refuse_other_models(cls, checkpoint: dict[str, Any]) -> None:
        name, format_ = model_name(checkpoint), _header(checkpoint).get("format", 1)
        if name is None and "daad_validated" not in checkpoint:
            msg = f"The checkpoint does not fit {cls.__name__}: it was saved by another kind of model."
        elif not is_read(name, format_):
            msg = (
                f"The checkpoint was trained by another version of anomalib-daad (format {format_}, here {FORMAT}), "
                "which built its models otherwise: train the model again."
            )
        elif name not in {base.__name__ for base in cls.__mro__}:
            msg = f"The checkpoint does not fit {cls.__name__}: it is one of {name}; load it with {name}."
        else:
            return
        raise ValueError(msg)

    def _take_arguments(self, saved: dict[str, Any]) -> None:
        """Build the network that was trained where other arguments would build another, or score otherwise.

        Raises:
            ValueError: If images were prepared for another size already.
        """
        ours, theirs = self._network_arguments(self.hparams), self._network_arguments(saved)
        differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
        if not differing:
            return
        said = _describe(differing, theirs, ours)
        if "image_size" in differing and self._trainer is not None:
            height, width = theirs["image_size"]
            msg = (
                f"The checkpoint was trained with {said}, and images are prepared for the size that is given: give "
                f'image_size=({height}, {width}), on the command line --model.image_size "[{height}, {width}]".'
            )
            raise ValueError(msg)
        logger.warning(USED_AS_TRAINED, said)
        arguments = {name: value for name, value in {**self.hparams, **saved}.items() if name in self.hparams}
        trained = type(self)(**arguments, evaluator=False, visualizer=False)
        self.model = trained.model.to(self.device)
        self.pre_processor = trained.pre_processor if "image_size" in differing else self.pre_processor
        self.hparams.update(arguments)

    @classmethod
    def _network_arguments(cls, arguments: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: _plain(value) for name, value in arguments.items() if name not in cls.of_training_alone}

    def _refuse_other_shapes(self, checkpoint: dict[str, Any]) -> None:
        def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
            return {key: value.shape for key, value in state.items() if key.startswith("model.")}

        if shapes(checkpoint["state_dict"]) == shapes(self.state_dict()):
            return
        msg = (
            f"The checkpoint does not fit {type(self).__name__}: its weights have other shapes than its own arguments "
        )
        msg += "give them; load another checkpoint."
        raise ValueError(msg)


def _describe(differing: list[str], theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    return ", ".join(f"{name}={theirs[name]}, not {ours[name]}" for name in differing)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

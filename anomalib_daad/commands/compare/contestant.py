# SPDX-License-Identifier: Apache-2.0

"""A model of the comparison: any of anomalib's by its name, or a configuration file.

Example:
    >>> Contestant.parse("Padim")
    Contestant(name='Padim', class_path='Padim', arguments={}, trainer={}, batch_size=None)
"""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import anomalib.models
import safetensors.torch
import yaml
from anomalib.models import AnomalibModule
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.post_processing import PostProcessor

from anomalib_daad.error_message import first_line
from anomalib_daad.registration import MODELS
from anomalib_daad.training.false_alarms import FalseAlarmPostProcessor

# Arguments of a configuration's trainer that belong to the model's recipe; the rest is the comparison's.
_RECIPE = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm")
# Those that are the comparison's own; what is neither would change a training, and is refused.
_OURS = {"accelerator", "devices", "default_root_dir", "logger", "val_check_interval", "check_val_every_n_epoch"}
_BATCH_SIZES = {"EfficientAd": 1}  # it takes no other
# Models without an argument ``pre_trained`` that need no weights from elsewhere; all others need some.
_FROM_SCRATCH = {"Draem", "Ganomaly", *MODELS}


@dataclass(frozen=True)
class Contestant:
    """A model with the recipe that it is trained by.

    Attributes:
        name (str): Name in the report.
        class_path (str): Class of anomalib.
        arguments (dict[str, Any]): Arguments of the class.
        trainer (dict[str, Any]): Arguments of the trainer that belong to a recipe, where a configuration sets them.
        batch_size (int | None): Images a step, where a configuration sets it.
    """

    name: str
    class_path: str
    arguments: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Contestant":
        """Read what stands on the command line.

        Args:
            text (str): Name of a model, written as anomalib writes it or with underscores; or a YAML file as
                ``anomalib train --config`` takes it.

        Returns:
            Contestant: The model.

        Raises:
            ValueError: If there is no such model, the file is no such configuration, or its images are not square.
        """
        path = Path(text)
        if path.suffix not in {".yaml", ".yml"}:
            name = _find(text)
            return cls(name, name, batch_size=_BATCH_SIZES.get(name))
        if not path.is_file():
            msg = f"There is no configuration file {path}."
            raise ValueError(msg)
        try:
            read = yaml.safe_load(path.read_text(encoding="utf-8"))
            model = read["model"]
            arguments = dict(model.get("init_args") or {})
            trainer = dict(read.get("trainer") or {})
            batch_size = ((read.get("data") or {}).get("init_args") or {}).get("train_batch_size")
            class_path = _find(model["class_path"].rpartition(".")[2])
        except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            msg = f"{path} is not a configuration of anomalib: it must have model.class_path and model.init_args."
            raise ValueError(msg) from error
        if other := [key for key in trainer if key not in _RECIPE and key not in _OURS and "enable_" not in key]:
            msg = f"{path}: a comparison knows no trainer.{other[0]}; leave it out, or train without compare."
            raise ValueError(msg)
        recipe = {key: value for key, value in trainer.items() if key in _RECIPE}
        sides = arguments.get("image_size")
        if isinstance(sides, list) and len(set(sides)) != 1:
            msg = f"{path}: a comparison knows square images alone, got image_size {sides}; make its sides equal."
            raise ValueError(msg)
        return cls(path.stem, class_path, arguments, recipe, _BATCH_SIZES.get(class_path, batch_size))

    def build(
        self,
        image_size: int,
        seed: int,
        pretrained: bool = True,
        backbone: str | None = None,
        backbone_weights: Path | None = None,
    ) -> AnomalibModule:
        """Build the model for images of one size, without anomalib's visualizer and evaluator.

        Args:
            image_size (int): Height and width that images are resized to.
            seed (int): Seed, for models that take one.
            pretrained (bool): Use weights trained elsewhere where the model does. Defaults to ``True``.
            backbone (str | None): Backbone of models that have one; None for their own. Defaults to ``None``.
            backbone_weights (Path | None): Weights of the backbone as safetensors; None for those that anomalib
                downloads. Defaults to ``None``.

        Returns:
            AnomalibModule: The model.

        Raises:
            ValueError: If an argument or the weights do not fit, or the model cannot do without pretrained weights.
        """
        model_class = getattr(anomalib.models, self.class_path)
        known = signature(model_class).parameters
        unused = {name: False for name in ("visualizer", "evaluator") if name in known}
        arguments = {**self.arguments, **unused}
        if "image_size" in known:
            takes_both = "tuple" in str(known["image_size"].annotation)
            arguments["image_size"] = (image_size, image_size) if takes_both else image_size
        if "seed" in known:
            arguments["seed"] = seed
        if "backbone" in known and backbone is not None:
            arguments["backbone"] = backbone
        if "pre_trained" in known and (backbone_weights is not None or not pretrained):
            arguments["pre_trained"] = False
        if not pretrained and not self.takes_backbone and not self.needs_no_weights:
            msg = f"{self.name} is built on pretrained weights; leave it out, or drop --no-pretrained."
            raise ValueError(msg)
        if unknown := [name for name in arguments if name not in known]:
            msg = f"{self.name}: {self.class_path} has no argument {', '.join(unknown)}."
            raise ValueError(msg)
        try:
            if "image_size" not in known:
                arguments["pre_processor"] = model_class.configure_pre_processor((image_size, image_size))
            model = model_class(**arguments)
        except Exception as error:  # whatever a model objects to, or a hub that is out of reach
            msg = f"{self.name} cannot be built: {first_line(error)}"
            if isinstance(error, OSError) and arguments.get("pre_trained", True):
                msg += " Where the model hub is out of reach, give --backbone-weights FILE or --no-pretrained."
            raise ValueError(msg) from error
        if backbone_weights is not None and "pre_trained" in known:
            _load_backbone(model, backbone_weights, self.name)
        if (
            isinstance(getattr(model, "post_processor", None), FalseAlarmPostProcessor)
            and "post_processor" not in self.arguments
        ):
            model.post_processor = PostProcessor()  # misses and false alarms compare where one rule sets all thresholds
        return model

    def is_from_scratch(self, pretrained: bool) -> bool:
        """Whether the model starts without anomalib's pretrained weights.

        Args:
            pretrained (bool): Whether it may use them.

        Returns:
            bool: Whether it does without.
        """
        if self.takes_backbone:
            return not (pretrained and self.arguments.get("pre_trained", True))
        return self.needs_no_weights

    @property
    def image_size(self) -> int | None:
        """Height and width that images are resized to, where a configuration sets it."""
        size = self.arguments.get("image_size")
        return size[0] if isinstance(size, list) else size

    @property
    def needs_no_weights(self) -> bool:
        """Whether there are no weights from elsewhere that the model could start from."""
        return self.class_path in _FROM_SCRATCH

    @property
    def takes_backbone(self) -> bool:
        """Whether the model has a backbone that can be pretrained or not."""
        return "pre_trained" in signature(getattr(anomalib.models, self.class_path)).parameters


def _find(name: str) -> str:
    classes = {
        _plain(key): key
        for key, value in vars(anomalib.models).items()
        if isinstance(value, type) and issubclass(value, AnomalibModule) and value is not AnomalibModule
    }
    if _plain(name) in classes:
        return classes[_plain(name)]
    near = get_close_matches(_plain(name), classes, n=3, cutoff=0.4)
    nearest = f"the nearest are {', '.join(classes[key] for key in near)}" if near else "see anomalib's documentation"
    msg = f"There is no model {name}: {nearest}; or give a YAML file."
    raise ValueError(msg)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _load_backbone(model: AnomalibModule, path: Path, name: str) -> None:
    """Load weights into the backbone, every one of them, and refuse what does not fit."""
    extractors = [module for module in model.modules() if isinstance(module, TimmFeatureExtractor)]
    if len(extractors) != 1:
        msg = f"{name} has no single backbone of timm's that --backbone-weights could be loaded into."
        raise ValueError(msg)
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        msg = f"--backbone-weights {path} is not a readable safetensors file: {error}."
        raise ValueError(msg) from error
    own = extractors[0].feature_extractor
    needed = own.state_dict()
    # Files of whole networks hold layers that a feature extractor leaves out.
    wrong = [key for key, value in needed.items() if key not in state or state[key].shape != value.shape]
    if wrong:
        msg = (
            f"--backbone-weights {path} does not fit the backbone of {name}, {model.hparams.get('backbone')}, for lack "
        )
        msg += f"of {wrong[0]} in its shape: name the backbone that these are the weights of with --backbone."
        raise ValueError(msg)
    own.load_state_dict({key: state[key] for key in needed})
    parts: tuple[Any, ...] = (model, model.model)
    for part in parts:
        if hasattr(part, "pre_trained"):  # Glass trains a backbone that is not
            part.pre_trained = True
    extractors[0].requires_grad = False

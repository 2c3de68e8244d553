# SPDX-License-Identifier: Apache-2.0

"""What is checked as a run starts: runs that would end in silence, or in scores that mean nothing, are refused.

Example:
    >>> import torch
    >>> from torchvision.transforms.v2 import Normalize
    >>> darkest(Normalize([0.5] * 3, [0.5] * 3))
    -1.0
"""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)

_TRAINED: WeakKeyDictionary[Trainer, ref[LightningModule]] = WeakKeyDictionary()  # the model that a trainer trained
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def refuse_other_precisions(trainer: Trainer, name: str) -> None:
    """Refuse weights of other precision than float32, whose scores are rounded away.

    Args:
        trainer (Trainer): Trainer.
        name (str): Name of the model.

    Raises:
        ValueError: If the trainer would turn weights into half or double precision.
    """
    precision = getattr(trainer.strategy.precision_plugin, "precision", "32-true")
    if precision not in PRECISIONS:
        msg = f"{name} keeps its weights in float32, got precision {precision}: use {', '.join(PRECISIONS)}."
        raise ValueError(msg)


def refuse_a_used_trainer(trainer: Trainer, model: LightningModule) -> None:
    """Refuse to fit a model with a trainer that has trained another: its counts would leave no or little training.

    Args:
        trainer (Trainer): Trainer that starts to fit.
        model (LightningModule): The model.

    Raises:
        ValueError: If the trainer's counts are of another model.
    """
    before = _TRAINED.get(trainer)
    is_new = before is None or before() is not model
    if is_new and trainer.ckpt_path is None and (trainer.global_step or trainer.current_epoch):
        msg = (
            f"This Engine has trained another model, and would cut the training of this {type(model).__name__} short: "
        )
        msg += "make a new Engine for each training."
        raise ValueError(msg)
    _TRAINED[trainer] = ref(model)


def refuse_untrained(network: Any, name: str) -> None:
    """Refuse to judge by a network that was neither trained nor validated.

    Args:
        network (Any): Network, an :class:`AnomalyNetwork`.
        name (str): Name of the model.

    Raises:
        ValueError: If the ranges of its scores are not set.
    """
    if network.score.reconstruction_range.isnan().any():
        msg = f"This {name} was never trained, so its scores mean nothing: fit it first, or give a checkpoint, on the "
        msg += "command line with --ckpt_path."
        raise ValueError(msg)


def warn_if_half_range(pre_processor: Any, images: torch.Tensor, name: str) -> None:
    """Say where images are scaled to [0, 1]: the networks rebuild [-1, 1], and half of that would lie idle.

    Args:
        pre_processor (Any): Pre-processor, or anything else where there is none.
        images (torch.Tensor): First images of the training, after it, shape ``(B, 3, H, W)``.
        name (str): Name of the model.
    """
    transform = pre_processor.transform if isinstance(pre_processor, PreProcessor) else None
    low = float(images.min()) if transform is None else darkest(transform)
    if low is None or low <= -0.5:
        return
    what = "Black" if transform is not None else "The darkest pixel of the first images"
    logger.warning(
        "%s is %.2g after the pre-processor, where %s rebuilds [-1, 1]. If images are scaled to [0, 1], that costs "
        "accuracy: use %s.configure_pre_processor, or Normalize([0.5] * 3, [0.5] * 3).",
        what,
        low,
        name,
        name,
    )


def darkest(transform: Callable[[torch.Tensor], torch.Tensor]) -> float | None:
    """Tell what a transform makes of black.

    Args:
        transform (Callable[[torch.Tensor], torch.Tensor]): Transform of images in [0, 1].

    Returns:
        float | None: The smallest value; None where it takes no image of 1024 px.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return float(transform(torch.zeros(1, 3, 1024, 1024)).min())
    except Exception:  # a transform of a user's, and this only asks
        return None

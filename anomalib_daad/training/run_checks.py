# SPDX-License-Identifier: Apache-2.0

"""What is checked as a run starts: runs that would end in silence, or in scores that mean nothing, are refused.

Example:
    >>> import torch
    >>> from torchvision.transforms.v2 import Normalize
    >>> darkest(Normalize([0.5] * 3, [0.5] * 3), torch.zeros(1, 3, 8, 8))
    -1.0
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)

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


def refuse_a_finished_trainer(trainer: Trainer, name: str) -> None:
    """Refuse to fit a new model with a trainer that has trained another to its end.

    Args:
        trainer (Trainer): Trainer that starts to fit.
        name (str): Name of the model.

    Raises:
        ValueError: If no epoch and no step is left.
    """
    if trainer.ckpt_path is not None or not trainer.global_step:
        return
    epochs, steps = trainer.max_epochs, trainer.max_steps
    is_over = epochs is not None and 0 <= epochs <= trainer.current_epoch
    if is_over or 0 <= steps <= trainer.global_step:
        msg = f"This Engine has trained a model for all of its {trainer.global_step} steps, and would leave this {name}"
        msg += " as it is: make a new Engine for each training."
        raise ValueError(msg)


def refuse_untrained(network: Any, name: str) -> None:
    """Refuse to judge by a network that was never trained nor validated.

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
    low = float(images.min()) if transform is None else darkest(transform, torch.zeros_like(images[:1]))
    if low > -0.5:
        logger.warning(
            "Black is %.2g after the pre-processor, where %s rebuilds [-1, 1]; images of [0, 1] cost accuracy. Use "
            "%s.configure_pre_processor, or Normalize([0.5] * 3, [0.5] * 3).",
            low,
            name,
            name,
        )


def darkest(transform: Callable[[torch.Tensor], torch.Tensor], black: torch.Tensor) -> float:
    """Tell what a transform makes of black.

    Args:
        transform (Callable[[torch.Tensor], torch.Tensor]): Transform of images in [0, 1].
        black (torch.Tensor): Black images, shape ``(B, 3, H, W)``.

    Returns:
        float: The smallest value.
    """
    return float(transform(black).min())

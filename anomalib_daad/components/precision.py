# SPDX-License-Identifier: Apache-2.0

"""Precision of the training: bfloat16 where the processor computes in it and it is fine enough, float32 elsewhere.

Example:
    >>> computes_bfloat16("cuda")
    True
"""

import logging

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

logger = logging.getLogger(__name__)


def computes_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device computes in bfloat16.

    Without AVX-512 or the like PyTorch emulates it number by number: on an x86 processor with AVX2 alone a training
    step took 21 times as long in bfloat16 as in float32.

    Args:
        device (torch.device | str): Device; only CPUs are asked.

    Returns:
        bool: False where bfloat16 is far slower than float32.
    """
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001


def avoid_emulated_bfloat16(trainer: Trainer) -> None:
    """Let a trainer that was asked for bf16-mixed train in float32, where bfloat16 is emulated, and say so.

    Args:
        trainer (Trainer): Trainer, before its strategy is set up.
    """
    strategy = trainer.strategy
    plugin = strategy.precision_plugin
    if not isinstance(plugin, MixedPrecision) or plugin.precision != "bf16-mixed":
        return
    if not computes_bfloat16(strategy.root_device):
        strategy.precision_plugin = Precision()
        logger.warning(
            "This processor emulates bfloat16, far slower than it computes float32: training in float32 instead. "
            "--trainer.precision 32-true does the same without this warning."
        )


def full_precision(like: torch.Tensor) -> torch.autocast:
    """Context without autocast, for what bfloat16 is too coarse for, such as scores with ranges of the float32 export.

    Args:
        like (torch.Tensor): Tensor on the device that the context is for.

    Returns:
        torch.autocast: Context manager.
    """
    return torch.autocast(like.device.type, enabled=False)

# SPDX-License-Identifier: Apache-2.0

"""Precision of a training: bfloat16 where the processor computes in it, float32 elsewhere."""

import logging

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from anomalib_daad.components.precision import computes_bfloat16

logger = logging.getLogger(__name__)


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

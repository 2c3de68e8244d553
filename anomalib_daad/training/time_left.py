# SPDX-License-Identifier: Apache-2.0

"""A training of hours says so early, and what would be shorter."""

import logging
import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

logger = logging.getLogger(__name__)

HOUR = 3600.0
_WARM_UP = 2  # steps that take longer than others
_SURE = 20.0  # seconds after which a long training is told of


class TimeLeft(Callback):
    """Warns of a training that takes more than an hour."""

    def __init__(self) -> None:
        self._seen = 0
        self._from = 0.0
        self._is_told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Not used.
        """
        del trainer, pl_module
        self._seen, self._is_told = 0, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Estimate what is left from the first steps.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
            args: Not used.
        """
        del args
        if self._is_told:
            return
        self._seen += 1
        now = time.monotonic()
        if self._seen <= _WARM_UP:
            self._from = now
        if now - self._from <= _SURE:
            return
        self._is_told = True
        left = trainer.estimated_stepping_batches - trainer.global_step
        seconds = (now - self._from) / (self._seen - _WARM_UP) * max(0.0, left)
        if math.isfinite(left) and seconds > HOUR:
            logger.warning(
                "This training will take about %.1f hours on this machine: %d steps. Fewer steps "
                "(--trainer.max_steps), smaller images or fewer channels are shorter%s.",
                seconds / HOUR,
                round(left + self._seen),
                "" if getattr(pl_module, "default_steps", None) else "; --model DaadRestoration takes 3000 steps",
            )

# SPDX-License-Identifier: Apache-2.0

"""Tests without a defective image: their AUROC would be 0.0, which reads as a broken model."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import ModuleList

logger = logging.getLogger(__name__)


class GoodImagesAlone(Callback):
    """Leaves measures of defects out of a test that has none, and says what such a test tells."""

    def __init__(self) -> None:
        self._left_out: ModuleList | None = None
        self._count = self._rejected = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the measures out where all test images are good.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
        """
        evaluator: Any = getattr(pl_module, "evaluator", None)
        dataset: Any = getattr(getattr(trainer, "datamodule", None), "test_data", None)
        if getattr(dataset, "has_anomalous", True) or not hasattr(evaluator, "test_metrics"):
            return
        self._left_out, evaluator.test_metrics = evaluator.test_metrics, ModuleList()
        self._count = self._rejected = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count the images, and those that are rejected.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Not used.
            outputs (Any): Not used.
            batch (Any): Batch with its verdicts, shape ``(B,)``.
            args: Not used.
        """
        del trainer, pl_module, outputs, args
        labels = getattr(batch, "pred_label", None)
        if self._left_out is not None and labels is not None:
            self._count += labels.numel()
            self._rejected += int(labels.sum())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it, and put the measures back.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Model.
        """
        del trainer
        if self._left_out is None:
            return
        evaluator: Any = pl_module.evaluator
        evaluator.test_metrics, self._left_out = self._left_out, None
        logger.warning(
            "The test has no defective image, so AUROC and F1 say nothing and are left out: the threshold rejects %d "
            "of %d good images. Measure what it misses with a few defective ones.",
            self._rejected,
            self._count,
        )

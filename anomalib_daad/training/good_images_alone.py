# SPDX-License-Identifier: Apache-2.0

"""Tests without a defective image: their AUROC would be 0.0, which reads as a broken model."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import ModuleList
from torchmetrics.classification import BinaryF1Score, BinaryPrecisionRecallCurve

from .distributed import gather

logger = logging.getLogger(__name__)
OF_BOTH_KINDS = (BinaryF1Score, BinaryPrecisionRecallCurve)  # anomalib's AUROC, AUPR and F1Max are such curves


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
        source: Any = trainer.test_loop._data_source.instance  # noqa: SLF001  # also of loaders without a datamodule
        dataset: Any = getattr(source, "test_data", None)
        if getattr(dataset, "has_anomalous", True) or not hasattr(evaluator, "test_metrics"):
            return
        self._left_out = evaluator.test_metrics
        kept = [it for it in evaluator.test_metrics if not isinstance(it, OF_BOTH_KINDS)]
        evaluator.test_metrics = ModuleList(kept)
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
        if self._left_out is None:
            return
        self._put_back(pl_module)
        counts = torch.tensor([[self._rejected, self._count]], device=pl_module.device)
        rejected, count = gather(counts).sum(dim=0).tolist()
        if not trainer.is_global_zero:
            return
        logger.warning(
            "The test has no defective image, so AUROC and F1 say nothing and are left out: the threshold rejects %d "
            "of %d good images. Measure what it misses with a few defective ones.",
            rejected,
            count,
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the measures back also where a test is cut short.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Model.
            exception (BaseException): Not used.
        """
        del trainer, exception
        self._put_back(pl_module)

    def _put_back(self, pl_module: LightningModule) -> None:
        evaluator: Any = pl_module.evaluator
        if self._left_out is not None:
            evaluator.test_metrics, self._left_out = self._left_out, None

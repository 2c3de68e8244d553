# SPDX-License-Identifier: Apache-2.0

"""Ranges of the scores, taken from images before anomalib's post-processor sees the first of them."""

from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback

from anomalib_daad.components.finite_input import refuse_not_finite
from anomalib_daad.components.fused_score import Scores

from .distributed import average, gather
from .lightning_internals import Module, fresh_validation_batches, plain_tensor


class CalibratedScores(Module):
    """Scales the scores by those of the validation images, or without validation by those of an epoch's good images.

    Attributes:
        model (Any): The network: ``scores(images)`` gives the two parts; ``score`` holds their ranges.
        calibrates_on_good (bool): Take the ranges from the good validation images alone.
    """

    model: Any
    calibrates_on_good = False
    _validated = False
    _training_scores: list[Scores] | None = None

    def before_calibration(self) -> None:
        """Learn what scores depend on, before their ranges are taken. Nothing, unless a detector has it."""

    def on_train_epoch_end(self) -> None:
        """Scale the scores by the epoch's training images where no validation has set their ranges."""
        without_validation = not (self.trainer.enable_validation and self._validated)
        if without_validation:
            self.before_calibration()
        self._average_statistics()
        if self._training_scores and without_validation:
            self._calibrate(self._training_scores)

    def on_validation_start(self) -> None:
        """Scale the scores by the validation images."""
        self.before_calibration()
        self._average_statistics()
        self._calibrate([self._validation_scores(batch) for batch in fresh_validation_batches(self.trainer)])
        self._validated = True

    def _average_statistics(self) -> None:
        """Let every process hold the statistics of all, so that they score alike and any of them can be saved."""
        average(
            [
                buffer
                for name, buffer in self.model.named_buffers()
                if name.endswith((".running_mean", ".running_var", ".count", "memory.items"))
            ]
        )

    def _validation_scores(self, batch: Batch) -> Scores:
        batch = self.trainer.strategy.batch_to_device(batch)
        if isinstance(self.pre_processor, Callback):
            self.pre_processor.on_validation_batch_start(self.trainer, self, batch, 0)
        refuse_not_finite(batch)
        images = plain_tensor(batch.image)
        if self.calibrates_on_good and batch.gt_label is not None:
            images = images[batch.gt_label == 0]
        with self.trainer.precision_plugin.val_step_context():
            return self.model.scores(images)

    def _calibrate(self, scores: list[Scores]) -> None:
        alignment = [part.alignment for part in scores if part.alignment is not None]
        self.model.score.calibrate(
            gather(torch.cat([part.reconstruction for part in scores])),
            gather(torch.cat(alignment)) if alignment else None,
        )

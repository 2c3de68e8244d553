# SPDX-License-Identifier: Apache-2.0

"""Measures of a validation, which anomalib takes of tests alone: to stop early by, and to watch.

torchmetrics squashes each batch whose scores leave [0, 1], as those of a validation do, and no other; ranks then mean
little. Here all scores are squashed alike before.
"""

import torch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.models.components import AnomalibModule
from torchmetrics.classification import BinaryAUROC


class _RankedAUROC(BinaryAUROC):
    """AUROC of scores of any size."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch.

        Args:
            preds (torch.Tensor): Scores, of any shape; infinite ones are of images that cannot be judged.
            target (torch.Tensor): Labels, of the same number.
        """
        # In float32 near scores would become equal; Apple's GPUs have nothing finer.
        scores = preds.flatten().to(torch.float32 if preds.device.type == "mps" else torch.float64)
        ranked = (scores / (1 + scores.abs()) / 2 + 0.5).nan_to_num(1.0)  # as they are ordered, in [0, 1]
        super().update(ranked, target.flatten())


class AUROC(AnomalibMetric, _RankedAUROC):  # type: ignore[misc]  # as anomalib's own
    """AUROC of the raw scores of a validation."""


def configure_evaluator() -> Evaluator:
    """Configure anomalib's measures of a test, and image and pixel AUROC of a validation.

    Returns:
        Evaluator: Evaluator.
    """
    return Evaluator(
        val_metrics=[
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
        ],
        test_metrics=[*AnomalibModule.configure_evaluator().test_metrics],
    )

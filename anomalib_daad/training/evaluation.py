# SPDX-License-Identifier: Apache-2.0

"""Measures of a validation, which anomalib takes of tests alone: to stop early by, and to watch.

torchmetrics squashes a batch whose scores leave [0, 1], as those of a validation do, and no other; ranks then mean
little. Here all scores are squashed alike before.
"""

import torch
from anomalib.metrics import AUROC, Evaluator
from anomalib.models.components import AnomalibModule


class _RankedAUROC(AUROC):
    """AUROC of scores of any size."""

    def update(self, batch: object, *args: object, **kwargs: object) -> None:
        """Add a batch.

        Args:
            batch (object): anomalib's batch; or, from there, the scores.
            args: The labels, with scores.
            kwargs: Not used.
        """
        if isinstance(batch, torch.Tensor):
            batch = batch / (1 + batch.abs()) / 2 + 0.5  # as they are ordered, in [0, 1]
            batch = batch.nan_to_num(1.0)  # infinite scores, of images that cannot be judged
        super().update(batch, *args, **kwargs)  # type: ignore[arg-type]


def configure_evaluator() -> Evaluator:
    """Configure anomalib's measures of a test, and image and pixel AUROC of a validation.

    Returns:
        Evaluator: Evaluator.
    """
    measures = [
        _RankedAUROC(fields=["pred_score", "gt_label"], prefix="image_"),
        _RankedAUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
    ]
    for measure in measures:
        measure.name = measure.name.replace(_RankedAUROC.__name__, AUROC.__name__)
    return Evaluator(val_metrics=measures, test_metrics=list(AnomalibModule.configure_evaluator().test_metrics))

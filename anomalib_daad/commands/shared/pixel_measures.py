# SPDX-License-Identifier: Apache-2.0

"""Pixel AUROC and AUPRO of all images at once."""

from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from sklearn.metrics import roc_auc_score


def measure_pixels(maps: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    """Judge anomaly maps; anomalib's metrics scale values beyond [0, 1] batch by batch, each its own way.

    Args:
        maps (torch.Tensor): Anomaly maps of any range, shape ``(n, 1, H, W)``.
        masks (torch.Tensor): Defects, boolean, shape ``(n, H, W)``; of good and of defective pixels there must be some.

    Returns:
        dict[str, float]: ``auroc_pixel`` and ``aupro``, in [0, 1].
    """
    low, high = maps.aminmax()
    scaled = (maps - low) / (high - low).clamp_min(1e-12)
    pro: Any = AUPRO(fields=["anomaly_map", "gt_mask"])
    pro.update(ImageBatch(image=torch.zeros(len(maps), 3, *maps.shape[2:]), anomaly_map=scaled, gt_mask=masks))
    pixel = roc_auc_score(masks.flatten().numpy(), maps.flatten().numpy())
    return {"auroc_pixel": round(float(pixel), 6), "aupro": round(float(pro.compute()), 6)}

# SPDX-License-Identifier: Apache-2.0

"""Pixels that are NaN or infinite never pass for normal.

``NaN > threshold`` is false, so that an image that cannot be scored got the label of a good one; OpenVINO even clamped
its score to 0, that of the best. Training and validation, whose ranges such an image would spoil for all others,
refuse it. Prediction and every export flag it instead, because an exported graph cannot raise: its score is infinite,
which anomalib's post-processor turns into 1 and the label anomalous in every runtime, and the rest of its batch keeps
its scores.

Example:
    >>> import torch
    >>> images = torch.tensor([0.0, torch.nan]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    >>> flag_not_finite(images, torch.tensor([0.2, 0.1]), images[:, :1]).pred_score
    tensor([0.2000,    inf])
"""

from typing import Any

import torch
from anomalib.data import InferenceBatch

MOST_BEYOND = 1.2  # of an augmentation's noise; ImageNet's normalisation gives -2.1 to 2.6


def flag_not_finite(images: torch.Tensor, score: torch.Tensor, anomaly_map: torch.Tensor) -> InferenceBatch:
    """Make the score infinite where the image or the score is not finite, and the map where it is not finite itself.

    The image counts beside the score because runtimes lose a NaN in ``max`` and ``clamp``, but not in a mean.

    Args:
        images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
        score (torch.Tensor): Their scores, shape ``(B,)``.
        anomaly_map (torch.Tensor): Their anomaly maps, shape ``(B, 1, H, W)``.

    Returns:
        InferenceBatch: Scores and maps, finite or ``+inf``, never NaN.
    """
    is_scored = (score + images.mean(dim=(1, 2, 3))).isfinite()  # (B,)
    return InferenceBatch(
        pred_score=torch.where(is_scored, score, torch.inf),
        anomaly_map=torch.where(anomaly_map.isfinite(), anomaly_map, torch.inf),
    )


def refuse_other_range(images: torch.Tensor, name: str) -> None:
    """Refuse images that a pre-processor made for another kind of model: ours rebuild [-1, 1].

    Args:
        images (torch.Tensor): Images after the pre-processor, shape ``(B, 3, H, W)``.
        name (str): Name of the model.

    Raises:
        ValueError: If they leave [-1, 1] by more than noise that is added to them would.
    """
    low, high = (float(limit) for limit in images.aminmax())
    if low >= -MOST_BEYOND and high <= MOST_BEYOND:
        return
    msg = (
        f"Images are from {low:.2g} to {high:.2g} after the pre-processor; {name} rebuilds [-1, 1]: use "
        f"{name}.configure_pre_processor, or Normalize([0.5] * 3, [0.5] * 3)."
    )
    raise ValueError(msg)


def refuse_not_finite(batch: Any) -> None:
    """Refuse a batch with NaN or infinite pixels.

    Args:
        batch (Any): anomalib's batch: images in ``batch.image``, shape ``(B, 3, H, W)``, and in ``batch.image_path``
            their paths, or None.

    Raises:
        ValueError: If a pixel is not finite; names the first such image.
    """
    if batch.image.sum().isfinite():  # a fraction of what looking at each pixel costs
        return
    is_finite = batch.image.isfinite().flatten(1).all(dim=1)  # (B,)
    if is_finite.all():
        return
    first = int(is_finite.int().argmin())
    name = batch.image_path[first] if batch.image_path else f"number {first} of the batch"
    msg = f"The image {name} has pixels that are NaN or infinite; repair it, or take it out of the data."
    raise ValueError(msg)

# SPDX-License-Identifier: Apache-2.0

"""Fused anomaly score of DAAD (section 3.3, eq. 7), with the ranges that scale its two parts.

Example:
    >>> import torch
    >>> score = FusedScore(gamma=0.9)
    >>> score.calibrate(torch.tensor([1.0, 3.0]), torch.tensor([10.0, 20.0]))
    >>> score(torch.tensor([2.0]), torch.tensor([20.0]))
    tensor([0.5500])
"""

from typing import NamedTuple

import torch
from torch import nn


class Scores(NamedTuple):
    """The two parts of the fused score, not yet scaled.

    Attributes:
        reconstruction (torch.Tensor): R(x), shape ``(B,)``.
        alignment (torch.Tensor | None): L(x), or what a detector has in its place, shape ``(B,)``; None without.
    """

    reconstruction: torch.Tensor
    alignment: torch.Tensor | None


class FusedScore(nn.Module):
    """A(x) = gamma R(x) + (1 - gamma) L(x), each part scaled linearly to [0, 1] by its range (eq. 7).

    The ranges are buffers, so that every checkpoint and export carries them. Scores beyond the ranges are not
    clamped: an image worse than all of those seen still ranks above them. Before calibration the parts are summed
    unscaled; a part that never varied is shifted but not scaled. The score is finite wherever its parts are.

    Args:
        gamma (float): Weight of the reconstruction score, in [0, 1]. Defaults to ``0.9``.

    Attributes:
        reconstruction_range (torch.Tensor): Smallest and largest R(x), shape ``(2,)``; NaN before calibration.
        alignment_range (torch.Tensor): Smallest and largest L(x), shape ``(2,)``; NaN before calibration.

    Raises:
        ValueError: If gamma is outside [0, 1].
    """

    def __init__(self, gamma: float = 0.9) -> None:
        super().__init__()
        if not 0 <= gamma <= 1:
            msg = f"gamma must be in [0, 1], got {gamma}."
            raise ValueError(msg)
        self.gamma = gamma
        self.reconstruction_range: torch.Tensor
        self.alignment_range: torch.Tensor
        self.register_buffer("reconstruction_range", torch.full((2,), torch.nan))
        self.register_buffer("alignment_range", torch.full((2,), torch.nan))

    def forward(self, reconstruction: torch.Tensor, alignment: torch.Tensor | None) -> torch.Tensor:
        """Fuse the two scores.

        Args:
            reconstruction (torch.Tensor): R(x), shape ``(B,)``, or a map whose maxima it is, shape ``(B, 1, H, W)``.
            alignment (torch.Tensor | None): L(x), same shape; None for a model without discriminator, whose
                score is the scaled R(x) alone.

        Returns:
            torch.Tensor: Anomaly score, same shape, in [0, 1] for images within the ranges.
        """
        scaled = _scale(reconstruction, self.reconstruction_range)
        if alignment is None:
            return scaled
        return self.gamma * scaled + (1 - self.gamma) * _scale(alignment, self.alignment_range)

    @torch.no_grad()
    def calibrate(self, reconstruction: torch.Tensor, alignment: torch.Tensor | None) -> None:
        """Take the ranges from the scores of a set of images; scores that are not finite are left out.

        Args:
            reconstruction (torch.Tensor): R(x) of each image, shape ``(n,)``.
            alignment (torch.Tensor | None): L(x) of each image, shape ``(n,)``, or None.
        """
        for scores, score_range in (
            (reconstruction, self.reconstruction_range),
            (alignment, self.alignment_range),
        ):
            finite = scores[scores.isfinite()] if scores is not None else torch.empty(0)
            if finite.numel():
                score_range.copy_(torch.stack(finite.aminmax()))


def _scale(scores: torch.Tensor, score_range: torch.Tensor) -> torch.Tensor:
    low, high = score_range.nan_to_num(0.0)
    width = high - low
    return (scores - low) / torch.where(width > 0, width, torch.ones_like(width))

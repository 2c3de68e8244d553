# SPDX-License-Identifier: Apache-2.0

"""Fused score (eq. 7)."""

import numpy as np
import pytest
import torch

from anomalib_daad.components.fused_score import FusedScore


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
def test_fused_score_is_eq_7(gamma) -> None:
    reconstruction, alignment = torch.rand(20) * 3 + 1, torch.rand(20) * 50 - 4
    score = FusedScore(gamma)
    score.calibrate(reconstruction, alignment)
    scaled_r = np.interp(reconstruction, [reconstruction.min(), reconstruction.max()], [0, 1])
    scaled_l = np.interp(alignment, [alignment.min(), alignment.max()], [0, 1])
    expected = gamma * scaled_r + (1 - gamma) * scaled_l
    np.testing.assert_allclose(score(reconstruction, alignment), expected, atol=1e-5)


def test_scores_beyond_the_range_are_not_clamped() -> None:
    score = FusedScore(0.5)
    score.calibrate(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    far, farther = score(torch.tensor([5.0, 6.0]), torch.tensor([3.0, 3.0]))
    assert 1 < far < farther
    assert score(torch.tensor([0.0]), torch.tensor([-1.0])) < 0


@pytest.mark.parametrize("values", [[2.0, 2.0], [2.0], [float("nan"), 2.0, 2.0], [float("inf"), 2.0]])
def test_a_range_of_zero_keeps_the_order_and_stays_finite(values) -> None:
    score = FusedScore(0.9)
    score.calibrate(torch.tensor(values), torch.tensor(values))
    low, high = score(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 3.0]))
    assert low == 0
    assert torch.isfinite(high)
    assert high > low


def test_uncalibrated_scores_are_finite() -> None:
    score = FusedScore(0.9)
    assert score(torch.tensor([0.5]), torch.tensor([0.1])).item() == pytest.approx(0.46)
    score.calibrate(torch.tensor([float("nan")]), torch.tensor([]))
    assert score(torch.tensor([0.5]), None).item() == pytest.approx(0.5)


def test_ranges_travel_in_the_state_dict() -> None:
    score, copy = FusedScore(), FusedScore()
    score.calibrate(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0]))
    copy.load_state_dict(score.state_dict())
    assert torch.equal(copy(torch.tensor([2.0]), torch.tensor([2.5])), score(torch.tensor([2.0]), torch.tensor([2.5])))


@pytest.mark.parametrize("gamma", [1.01, -0.1])
def test_a_weight_out_of_range_is_refused(gamma) -> None:
    with pytest.raises(ValueError, match=rf"gamma must be in \[0, 1\], got {gamma}"):
        FusedScore(gamma)

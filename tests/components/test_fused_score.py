# SPDX-License-Identifier: Apache-2.0

"""Fused score (eq. 7), anomaly map and the exported resize."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_daad.components.error_map import AnomalyMap
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.components.resize import ExportableResize
from anomalib_daad.training.pre_processor import AntialiasPreProcessor


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


def test_anomaly_map_is_the_blurred_squared_error() -> None:
    images, reconstructions = torch.rand(2, 3, 40, 48), torch.rand(2, 3, 40, 48)
    error = ((images - reconstructions).numpy() ** 2).mean(axis=1)
    expected = np.stack([gaussian_filter(e.astype(np.float64), 2.0, mode="nearest", truncate=4.0) for e in error])
    anomaly_map = AnomalyMap(sigma=2.0)(images, reconstructions)
    np.testing.assert_allclose(anomaly_map[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(200, 300), (64, 64), (33, 47), (17, 512), (1, 1)])
def test_exported_resize_equals_the_antialiased_one(size) -> None:
    images = torch.rand(2, 3, *size)
    expected = interpolate(images, (64, 48), mode="bilinear", antialias=True)
    dims = {2: torch.export.Dim("height", max=8192), 3: torch.export.Dim("width", max=8192)}
    example = torch.rand(2, 3, 100, 100)
    traced = torch.export.export(ExportableResize((64, 48)), (example,), dynamic_shapes=(dims,)).module()
    torch.testing.assert_close(traced(images), expected, rtol=0, atol=1e-5)
    if torch.cuda.is_available():
        torch.testing.assert_close(ExportableResize((64, 48))(images.cuda()).cpu(), expected, rtol=0, atol=1e-5)


def test_pre_processor_forward_equals_its_transform() -> None:
    transform = Compose([Resize((64, 64), antialias=True), CenterCrop(48), Normalize([0.5] * 3, [0.5] * 3)])
    pre_processor = AntialiasPreProcessor(transform)
    images = torch.rand(2, 3, 200, 150)
    torch.testing.assert_close(pre_processor(images), transform(images))
    restored = AntialiasPreProcessor()
    restored.load_checkpoint_config(pre_processor.checkpoint_config())
    torch.testing.assert_close(restored(images), transform(images))

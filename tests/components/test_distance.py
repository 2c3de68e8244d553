# SPDX-License-Identifier: Apache-2.0

"""The Euclidean distance of samples."""

import math

import pytest
import torch

from anomalib_daad.components.distance import sample_distance


def test_distance_is_the_euclidean_norm() -> None:
    first, second = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    expected = [math.dist(x.flatten().tolist(), y.flatten().tolist()) for x, y in zip(first, second, strict=True)]
    assert sample_distance(first, second).tolist() == pytest.approx(expected, rel=1e-5)


def test_distance_of_half_precision_batches_is_taken_in_float32() -> None:
    first, second = torch.full((1, 4), 300.0).half(), torch.full((1, 4), -300.0).half()
    assert sample_distance(first, second).item() == pytest.approx(1200.0)

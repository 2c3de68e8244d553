# SPDX-License-Identifier: Apache-2.0

"""The anomaly map of the models that reconstruct."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from anomalib_daad.components.error_map import ErrorMap


def test_anomaly_map_is_the_blurred_squared_error() -> None:
    images, reconstructions = torch.rand(2, 3, 40, 48), torch.rand(2, 3, 40, 48)
    error = ((images - reconstructions).numpy() ** 2).mean(axis=1)
    expected = np.stack([gaussian_filter(e.astype(np.float64), 4.0, mode="nearest", truncate=4.0) for e in error])
    anomaly_map = ErrorMap()(images, reconstructions)
    np.testing.assert_allclose(anomaly_map[:, 0], expected, atol=1e-4)


def test_half_precision_is_compared_in_float32() -> None:
    images, reconstructions = torch.full((1, 3, 8, 8), 300.0).half(), torch.full((1, 3, 8, 8), -300.0).half()
    torch.testing.assert_close(ErrorMap()(images, reconstructions), torch.full((1, 1, 8, 8), 360000.0))

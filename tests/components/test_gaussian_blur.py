# SPDX-License-Identifier: Apache-2.0

"""The blur of maps, against SciPy's, and their strongest points."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomalib_daad.components.gaussian_blur import GaussianBlur, maximum


@pytest.mark.parametrize("sigma", [0.25, 0.375, 0.75, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [(40, 48), (4, 7)])
def test_the_blur_is_scipys(sigma, size) -> None:
    maps = torch.rand(2, 3, *size)
    reach = int(np.ceil(4 * sigma))
    expected = gaussian_filter(maps.double().numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, reach, reach))
    np.testing.assert_allclose(GaussianBlur(sigma)(maps), expected, atol=1e-5)


def test_the_kernel_is_no_weight_of_a_checkpoint() -> None:
    assert not GaussianBlur(1.0).state_dict()


def test_the_strongest_points_of_several_maps_are_averaged() -> None:
    maps = torch.randn(4, 3, 5, 6)
    expected = [np.mean([one.max() for one in image]) for image in maps.numpy()]
    np.testing.assert_allclose(maximum(maps), expected, rtol=1e-6)

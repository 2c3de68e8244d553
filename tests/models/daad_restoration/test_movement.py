# SPDX-License-Identifier: Apache-2.0

"""Images turned about their centre."""

import numpy as np
import pytest
import torch
from references import turned_by_scipy

from anomalib_daad.models.daad_restoration.movement import turn


@pytest.mark.parametrize("size", [(20, 20), (16, 27)])
@pytest.mark.parametrize("degrees", [-90.0, -4.0, 3.0, 31.0])
def test_images_are_turned_counter_clockwise_as_scipy_turns_them(degrees, size) -> None:
    images = torch.rand(2, 3, *size)
    turned = turn(images, torch.tensor([degrees, 0.0]))
    np.testing.assert_allclose(turned[0], turned_by_scipy(images[0].double().numpy(), degrees), atol=1e-4)
    assert torch.equal(turned[1], images[1])


def test_what_is_not_in_a_turned_image_is_the_grounds() -> None:
    images, ground = torch.rand(1, 2, 24, 24), 5 + torch.rand(1, 2, 24, 24)
    turned = turn(images, torch.tensor([10.0]), ground)
    inside = turned_by_scipy(np.pad(np.ones((1, 24, 24)), ((0, 0), (4, 4), (4, 4))), 10.0)[:, 4:-4, 4:-4] > 0.99
    expected = np.where(inside, turned_by_scipy(images[0].double().numpy(), 10.0), ground[0])
    np.testing.assert_allclose(turned[0], expected, atol=1e-4)
    assert 0.02 < 1 - inside.mean() < 0.2

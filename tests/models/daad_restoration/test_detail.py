# SPDX-License-Identifier: Apache-2.0

"""Small images with their detail."""

import numpy as np
import pytest
import torch
from references import detail_by_pillow, draw_rough

from anomalib_daad.models.daad_restoration.detail import Detail


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_small_images_and_detail_are_what_pillow_says(factor) -> None:
    images = draw_rough()
    small = Detail((48, 80), factor)(images)
    for image, result in zip(images.numpy(), small.numpy(), strict=True):
        np.testing.assert_allclose(result, detail_by_pillow(image, factor), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_small_images() -> None:
    images = draw_rough(8, 256, 256)
    detail = Detail((256, 256), 4)
    with torch.autocast("cuda", torch.bfloat16):
        small = detail(images.cuda())
    torch.testing.assert_close(small.cpu(), detail(images), rtol=0, atol=1e-3)  # TensorFloat-32 may be allowed


def test_a_scratch_a_pixel_wide_is_detail_at_its_place() -> None:
    images = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64).clone()  # a slope has no detail
    plain = Detail((64, 64), 4)(images)[0, 3]
    assert plain[:, 1:-1].max() < 0.002
    images[..., 31] = 1.0
    detail = Detail((64, 64), 4)(images)[0, 3]
    assert (detail[:, 7:9] > 0.2).all()
    assert (detail[:, 2:5] < 0.02).all()


def test_detail_grows_with_contrast() -> None:
    images = draw_rough()
    detail = Detail((48, 80), 4)
    torch.testing.assert_close(detail(0.3 * images - 0.1)[:, 3], 0.3 * detail(images)[:, 3])

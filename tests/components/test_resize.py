# SPDX-License-Identifier: Apache-2.0

"""The exported resize."""

import pytest
import torch
from torch.nn.functional import interpolate

from anomalib_daad.components.resize import ExportableResize


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

# SPDX-License-Identifier: Apache-2.0

"""How many scales a size has, and which sizes are refused."""

import re

import pytest
import torch

from anomalib_daad.components.image_size import check_images, count_scales, refuse_image_size


def test_scales_are_four_or_as_many_as_leave_the_bottleneck_four_pixels() -> None:
    for size in range(8, 600):
        scales = [count for count in (1, 2, 3, 4) if size // 2**count >= 4]
        assert count_scales((size, 999)) == count_scales((999, size)) == max(scales)
    assert count_scales((4, 4)) == 1
    assert [count_scales((size, size)) for size in (32, 64, 256)] == [3, 4, 4]


@pytest.mark.parametrize("units", [(16, 16), (64, 32), (1, 7)])
def test_sizes_that_units_divide_are_taken(units) -> None:
    for rows in (1, 2, 5):
        for columns in (1, 3):
            refuse_image_size((rows * units[0], columns * units[1]), lambda _: units, "a reason")


@pytest.mark.parametrize("size", [(100, 128), (128, 100), (65, 33), (7, 1000), (0, 64), (-64, 64), (1, 1)])
def test_a_refusal_names_two_sizes_that_fit(size) -> None:
    units = (64, 32)
    with pytest.raises(ValueError, match="must be divisible by 64x32, which is a reason; take ") as error:
        refuse_image_size(size, lambda _: units, "a reason")
    assert str(error.value).startswith(f"image_size {size[0]}x{size[1]} ")
    (smaller, larger) = [
        tuple(map(int, it)) for it in re.findall(r"(\d+)x(\d+)", str(error.value).partition("take")[2])
    ]
    assert smaller != larger
    for fitting in (smaller, larger):
        refuse_image_size(fitting, lambda _: units, "a reason")
    for side, below, above, unit in zip(size, smaller, larger, units, strict=True):
        assert below <= max(side, unit)
        assert above >= side
        assert above - below <= unit


def test_images_of_another_shape_are_refused() -> None:
    check_images(torch.zeros(5, 3, 8, 12), (3, 8, 12), torch.float32)
    for shape in ((5, 2, 8, 12), (5, 3, 12, 8), (3, 8, 12)):
        with pytest.raises(ValueError, match=r"3, 8, 12.*image_size"):
            check_images(torch.zeros(shape), (3, 8, 12), torch.float32)


@pytest.mark.parametrize("size", [(32, 32), (40, 200), (100, 100), (1, 1), (63, 65)])
def test_sizes_that_are_named_fit_their_own_scales(size) -> None:
    """A larger image has another number of scales, and so other units."""

    def units_of(it: tuple[int, int]) -> tuple[int, int]:
        return (8 << count_scales(it), 8 << count_scales(it))

    with pytest.raises(ValueError, match="take") as error:
        refuse_image_size(size, units_of, "a reason")
    named = re.findall(r"(\d+)x(\d+)", str(error.value).partition("take")[2])
    assert len(set(named)) == 2
    for height, width in named:
        refuse_image_size((int(height), int(width)), units_of, "a reason")

# SPDX-License-Identifier: Apache-2.0

"""Structure of grey values and of detail, and the relative error, against their definitions."""

import numpy as np
import pytest
import torch
from references import draw, structure_by_definition, with_detail

from anomalib_daad.models.daad_restoration.difference_maps import StructureMaps, colour_error, relative_error


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_structure_maps_agree_with_their_definition(scales) -> None:
    images, restorations = (torch.cat([draw(3, (32, 48)), 0.1 * draw(3, (32, 48))[:, :1]], dim=1) for _ in range(2))
    mapped = StructureMaps(scales)(images, restorations)
    assert mapped.shape == (3, 2, 32, 48)
    for index in range(3):
        grey = [(x[index, :3].double().numpy().mean(axis=0) + 1) / 2 for x in (images, restorations)]
        np.testing.assert_allclose(mapped[index, 0], structure_by_definition(*grey, scales), atol=1e-5)
        own = images[index, 3].double().numpy()
        detail = [(x[index, 3].double().numpy() - own.mean()) / own.std() * 0.2 for x in (images, restorations)]
        np.testing.assert_allclose(mapped[index, 1], structure_by_definition(*detail, scales), atol=1e-5)


def test_one_channel_is_compared_as_it_is() -> None:
    first, second = torch.rand(2, 1, 32, 48), torch.rand(2, 1, 32, 48)
    for x, y, found in zip(first, second, StructureMaps().compare(first, second), strict=True):
        np.testing.assert_allclose(found[0], structure_by_definition(x[0].numpy(), y[0].numpy()), atol=1e-5)


def test_structure_sees_edges_and_not_brightness() -> None:
    images = torch.cat([draw() * 0.5, 0.1 * draw()[:, :1].abs()], dim=1)
    structure = StructureMaps()
    assert structure(images, images).max() < 1e-9
    assert structure(images, images + 0.3).max() < 1e-6
    assert structure(images, torch.zeros_like(images)).amax(dim=(0, 2, 3)).min() > 0.5


def test_grey_values_do_not_see_detail_nor_the_reverse() -> None:
    images, restorations = with_detail(), with_detail().roll(1, 0)
    maps = StructureMaps()(images, restorations)
    only_grey = torch.cat([restorations[:, :3], images[:, 3:]], dim=1)
    only_detail = torch.cat([images[:, :3], restorations[:, 3:]], dim=1)
    for restored, index in ((only_grey, 0), (only_detail, 1)):
        found = StructureMaps()(images, restored)
        torch.testing.assert_close(found[:, index], maps[:, index])
        assert found[:, 1 - index].max() < 1e-9


def test_relative_error_is_that_of_a_loop() -> None:
    images, reconstructions = with_detail(), with_detail().roll(1, 0)
    errors = relative_error(images, reconstructions)
    for image, reconstruction, error in zip(images.numpy(), reconstructions.numpy(), errors.numpy(), strict=True):
        expected = np.abs(image - reconstruction)[:3].mean(axis=0) / image[:3].std()
        expected = expected + np.abs(image - reconstruction)[3] / image[3].std()
        np.testing.assert_allclose(error[0], expected, rtol=1e-4, atol=1e-6)


def test_colour_error_is_that_of_a_loop() -> None:
    images, restorations = with_detail(), with_detail().roll(1, 0)
    for image, restored, found in zip(images, restorations, colour_error(images, restorations), strict=True):
        contrast = image[:3].double().std(correction=0)
        for row in range(0, image.shape[1], 5):
            for column in range(0, image.shape[2], 3):
                red, green, blue = ((image - restored)[:3, row, column].double() / contrast).tolist()
                mean = (red + green + blue) / 3
                expected = (abs(red - mean) + abs(green - mean) + abs(blue - mean)) / 3
                assert found[0, row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_what_changes_all_colours_alike_is_no_error_of_colour() -> None:
    images = with_detail()
    restorations = torch.cat([images[:, :3] + 0.2 * torch.rand_like(images[:, 3:]), images[:, 3:] + 1], dim=1)
    assert colour_error(images, restorations).max() < 1e-6
    restorations[:, 0] += 0.2
    assert colour_error(images, restorations).min() > 0.05

# SPDX-License-Identifier: Apache-2.0

"""Each pixel of a map is judged by what good images have there."""

import numpy as np
import pytest
import torch
from references import standardize_by_loop

from anomalib_daad.models.daad_restoration.map_standardization import (
    HORIZON,
    MapStandardization,
    SettledStandardization,
)

SIZE = (12, 20)


def draw_maps(count: int) -> torch.Tensor:
    """Maps whose level and spread differ from place to place, ``(n, 1, H, W)``."""
    generator = torch.Generator().manual_seed(0)
    level, spread = torch.randn(2, 1, 1, *SIZE, generator=generator)
    return 4 * level + spread.exp() * torch.randn(count, 1, *SIZE, generator=generator) - 10


@pytest.mark.parametrize("batch_size", [1, 7, HORIZON, HORIZON + 5])
def test_maps_are_standardised_by_all_of_the_first_images(batch_size) -> None:
    good, other = draw_maps(HORIZON + 5).split([HORIZON, 5])
    if batch_size > HORIZON:
        good = torch.cat([good, other])
    standardization = MapStandardization([1e-6], SIZE).train()
    for batch in good.split(batch_size):
        standardization(batch)
    standardization(good[:0])
    standardized = standardization.eval()(other)
    np.testing.assert_allclose(
        standardized[:, 0], standardize_by_loop(other[:, 0].numpy(), good[:, 0].numpy()), atol=1e-3
    )


def test_several_maps_are_standardised_each_as_if_alone() -> None:
    maps = torch.cat([draw_maps(20), 7 * draw_maps(20).flip(-1) + 3, torch.rand(20, 1, *SIZE)], dim=1)
    together = MapStandardization([1e-6] * 3, SIZE).train()
    alone = [MapStandardization([1e-6], SIZE).train()(one) for one in maps.split(1, dim=1)]
    torch.testing.assert_close(together(maps), torch.cat(alone, dim=1))


def test_long_ago_is_forgotten() -> None:
    standardization = MapStandardization([1e-6], SIZE).train()
    for batch in (draw_maps(HORIZON) + 10).split(6):
        standardization(batch)
    new = draw_maps(8 * HORIZON)
    for batch in new.split(6):
        standardization(batch)
    expected = standardize_by_loop(new[:5, 0].numpy(), new[:, 0].numpy())
    np.testing.assert_allclose(standardization.eval()(new[:5])[:, 0], expected, atol=0.5)


def test_evaluation_learns_nothing_and_training_standardises_too() -> None:
    maps = draw_maps(20)
    standardization = MapStandardization([1e-6], SIZE).train()
    trained = standardization(maps)
    before = {name: value.clone() for name, value in standardization.state_dict().items()}
    assert torch.equal(standardization.eval()(maps), trained)
    assert all(torch.equal(value, before[name]) for name, value in standardization.state_dict().items())


def test_maps_that_never_vary_stay_finite() -> None:
    standardization = MapStandardization([1e-6], SIZE).train()
    assert standardization(torch.full((4, 1, *SIZE), 3.0)).isfinite().all()
    assert standardization.eval()(torch.full((4, 1, *SIZE), 3.1)).isfinite().all()


def test_what_is_settled_standardises_alike() -> None:
    standardization = MapStandardization([1e-6], SIZE).train()
    standardization(draw_maps(20))
    settled = SettledStandardization(standardization.usual())
    torch.testing.assert_close(settled(draw_maps(3)), standardization.eval()(draw_maps(3)), rtol=0, atol=0)


def test_a_smaller_deviation_than_the_least_is_not_believed() -> None:
    maps = torch.cat([draw_maps(20), 1e-4 * draw_maps(20)], dim=1)
    standardization = MapStandardization([1e-6, 0.5], SIZE).train()
    standardization(maps)
    standardization.eval()
    off = maps + 3
    found = standardization(off) - standardization(maps)
    torch.testing.assert_close(found[:, 1], torch.full_like(found[:, 1], 6.0))  # 3 is six times 0.5
    alone = MapStandardization([1e-6], SIZE).train()
    alone(maps[:, :1])
    torch.testing.assert_close(found[:, :1], alone.eval()(off[:, :1]) - alone(maps[:, :1]))


def test_a_pickle_of_an_earlier_version_standardises_as_it_did() -> None:
    standardization = MapStandardization([1e-6, 1e-6], SIZE).train()
    standardization(torch.cat([draw_maps(20), draw_maps(20)], dim=1))
    earlier = MapStandardization.__new__(MapStandardization)
    state = {**standardization.eval().__dict__}
    state["_buffers"] = {key: value for key, value in state["_buffers"].items() if key != "least"}
    earlier.__setstate__(state)
    maps = torch.cat([draw_maps(3), draw_maps(3)], dim=1)
    torch.testing.assert_close(earlier(maps), standardization(maps), rtol=0, atol=0)

# SPDX-License-Identifier: Apache-2.0

"""Each pixel of a map is judged by what good images have there."""

import numpy as np
import pytest
import torch
from conftest import RESTORATION, make_model, standardize_by_loop

from anomalib_daad.components.error_map import relative_error
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.daad_restoration.corruption import CorruptedImages
from anomalib_daad.models.daad_restoration.map_standardization import HORIZON, MapStandardization

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
    standardization = MapStandardization(1, SIZE).train()
    for batch in good.split(batch_size):
        standardization(batch)
    standardization(good[:0])
    standardized = standardization.eval()(other)
    np.testing.assert_allclose(
        standardized[:, 0], standardize_by_loop(other[:, 0].numpy(), good[:, 0].numpy()), atol=1e-3
    )


def test_several_maps_are_standardised_each_as_if_alone() -> None:
    maps = torch.cat([draw_maps(20), 7 * draw_maps(20).flip(-1) + 3, torch.rand(20, 1, *SIZE)], dim=1)
    together = MapStandardization(3, SIZE).train()
    alone = [MapStandardization(1, SIZE).train()(one) for one in maps.split(1, dim=1)]
    torch.testing.assert_close(together(maps), torch.cat(alone, dim=1))


def test_long_ago_is_forgotten() -> None:
    standardization = MapStandardization(1, SIZE).train()
    for batch in (draw_maps(HORIZON) + 10).split(6):
        standardization(batch)
    new = draw_maps(8 * HORIZON)
    for batch in new.split(6):
        standardization(batch)
    expected = standardize_by_loop(new[:5, 0].numpy(), new[:, 0].numpy())
    np.testing.assert_allclose(standardization.eval()(new[:5])[:, 0], expected, atol=0.5)


def test_evaluation_learns_nothing_and_training_standardises_too() -> None:
    maps = draw_maps(20)
    standardization = MapStandardization(1, SIZE).train()
    trained = standardization(maps)
    before = {name: value.clone() for name, value in standardization.state_dict().items()}
    assert torch.equal(standardization.eval()(maps), trained)
    assert all(torch.equal(value, before[name]) for name, value in standardization.state_dict().items())


def test_maps_that_never_vary_stay_finite() -> None:
    standardization = MapStandardization(1, SIZE).train()
    assert standardization(torch.full((4, 1, *SIZE), 3.0)).isfinite().all()
    assert standardization.eval()(torch.full((4, 1, *SIZE), 3.1)).isfinite().all()


# In the model.


def test_only_images_without_corruption_are_learnt_from(monkeypatch) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(6, 1, 32, 32)
    masks[[1, 2, 5], 0, 3, 4] = 1
    monkeypatch.setattr("anomalib_daad.models.daad.lightning_model.relight", lambda images, *_: images)
    monkeypatch.setattr(
        "anomalib_daad.models.daad.lightning_model.corrupt", lambda images: CorruptedImages(images, masks)
    )
    model = make_model(**RESTORATION, standardize_maps=True, error_map=True).train()
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        model.losses(images)
        output = model.model(images)  # batch statistics: the same again
        good = masks.amax(dim=(1, 2, 3)) == 0
        maps = [
            model.model.anomaly_map(images[good], output.reconstructions[good]),
            model.model.anomaly_map.blur(output.defects[good]),
            model.model.anomaly_map.blur(relative_error(images[good], output.reconstructions[good])),
        ]
    standardization, its_maps = model.model.standardization, torch.cat(maps, dim=1)
    assert standardization.count == 3
    torch.testing.assert_close(standardization.running_mean, its_maps.mean(dim=0, keepdim=True))
    torch.testing.assert_close(standardization.running_var, its_maps.var(dim=0, correction=0, keepdim=True))


@pytest.mark.parametrize("comparison_channels", [0, 4])
@pytest.mark.parametrize("score", ["maximum_structure", "maximum_error", "maxima"])
@pytest.mark.parametrize("error_map", [False, True])
def test_scores_are_maxima_of_standardised_maps_of_the_image_in_its_place(
    error_map, score, comparison_channels
) -> None:
    options = {**RESTORATION, "score": score, "comparison_channels": comparison_channels, "error_map": error_map}
    model = make_model(**options, placement_radius=2, standardize_maps=True).model
    model.placement.growth.fill_(10.0)
    count = 1 + (comparison_channels > 0) + error_map
    model.standardization.train()(torch.randn(30, count, 32, 32) * torch.rand(count, 32, 32))
    model.eval()
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    placed = model.in_place(images)
    assert placed.rows.any() or placed.columns.any()
    with torch.no_grad():
        restored = model.autoencoder(placed.images)
        maps = [model.anomaly_map(placed.images, restored)]
        if comparison_channels:
            maps.append(model.anomaly_map.blur(model.comparison(placed.images, restored)))
        if error_map:
            maps.append(model.anomaly_map.blur(relative_error(placed.images, restored)))
    maps = list(placed.back(model.standardization(torch.cat(maps, dim=1))).split(1, dim=1))
    scores = model.scores(images)
    strongest = maps[0].amax(dim=(1, 2, 3))
    if error_map and score == "maxima":
        strongest = (strongest + maps[-1].amax(dim=(1, 2, 3))) / 2
    torch.testing.assert_close(scores.reconstruction, strongest)
    if comparison_channels:
        torch.testing.assert_close(scores.alignment, maps[1].amax(dim=(1, 2, 3)))
    error = maps.pop() if error_map else 0.0  # in the map; in the scores of "maxima" alone
    expected = model.score(maps[0] + 2 * error, maps[1] if comparison_channels else None)
    torch.testing.assert_close(model(images).anomaly_map, expected)
    rewritten = for_inference(model)
    torch.testing.assert_close(rewritten(images).anomaly_map, expected, rtol=0, atol=1e-4)
    assert not any(isinstance(module, MapStandardization) for module in rewritten.modules())


def test_standardising_does_not_change_training(make_datamodule, make_engine) -> None:
    weights = []
    for standardize_maps in (False, True):
        model = make_model(**RESTORATION, standardize_maps=standardize_maps)
        make_engine(max_epochs=2).fit(model, datamodule=make_datamodule())
        weights.append(dict(model.model.named_parameters()))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_error_map_takes_a_common_unit() -> None:
    with pytest.raises(ValueError, match="set standardize_maps=True"):
        make_model(**RESTORATION, error_map=True)


def test_maxima_of_several_maps_take_a_common_unit() -> None:
    with pytest.raises(ValueError, match=r"score='maxima' averages over maps, .* standardize_maps=True"):
        make_model(**{**RESTORATION, "score": "maxima"})


def test_a_mean_error_has_no_map_to_standardise() -> None:
    with pytest.raises(ValueError, match="Standardised maps need a score of maxima"):
        make_model(standardize_maps=True)

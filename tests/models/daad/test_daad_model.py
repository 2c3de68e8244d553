# SPDX-License-Identifier: Apache-2.0

"""DAAD's network: scores, maps and refusals."""

import math

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from scipy.ndimage import gaussian_filter

from anomalib_daad.models.daad.torch_model import DaadModel, TrainingOutput


def small_model(**arguments) -> DaadModel:
    defaults = {"image_size": (32, 32), "division_rates": (2, 2, 1), "num_items": 10, "base_channels": 4}
    return DaadModel(**{**defaults, **arguments})


def test_model_outputs_in_training_and_evaluation() -> None:
    model = small_model()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert isinstance(model(images), TrainingOutput)
    batch = model.eval()(images)
    assert isinstance(batch, InferenceBatch)
    assert batch.pred_score.shape == (3,)
    assert batch.anomaly_map.shape == (3, 1, 32, 32)
    assert not batch.pred_score.requires_grad
    assert not batch.anomaly_map.requires_grad


def test_scores_and_maps_follow_their_definitions() -> None:
    torch.manual_seed(0)
    model = small_model().eval()
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter *= 10  # untrained features are so small that any comparison of them would pass
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    scores = model.scores(images)
    for index, image in enumerate(images[:, None]):
        reconstruction = model.autoencoder(image)
        error = math.sqrt(sum(x * x for x in (image - reconstruction).flatten().tolist()))
        assert scores.reconstruction[index].item() == pytest.approx(error, rel=1e-5)
        difference = model.discriminator(image).features - model.discriminator(reconstruction).features
        expected = math.sqrt(sum(x * x for x in difference.flatten().tolist()))
        assert scores.alignment[index].item() == pytest.approx(expected, rel=1e-4)
        pixel_error = ((image - reconstruction) ** 2).detach().double().numpy()[0].sum(axis=0) / 3
        blurred = gaussian_filter(pixel_error, 4.0, mode="nearest", truncate=4.0)
        np.testing.assert_allclose(model(images).anomaly_map[index, 0], blurred, rtol=0, atol=1e-5)


@pytest.mark.parametrize("addressing", ["paper", "sharp"])
def test_addressing_is_eq_1_as_printed_or_lets_blocks_choose(addressing) -> None:
    torch.manual_seed(0)
    memories = DaadModel((64, 64), (4, 4, 1), 100, base_channels=8, addressing=addressing).autoencoder.memories
    for memory in memories:
        items = memory.items.detach().double()
        features = torch.randn(2, *memory.feature_shape)
        query = memory.divide(features)[1, 5].double()
        cosines = items @ query / (items.norm(dim=1) * query.norm())
        weights = torch.softmax(cosines / (0.05 if addressing == "sharp" else 1.0), dim=0)
        near_the_drop = (weights * 100).log().abs() < 2e-3
        weights = weights * (weights >= 0.01)
        if addressing == "sharp":
            assert items.abs().max() <= items.shape[1] ** -0.5
            weights = weights / weights.sum()
        else:
            assert items.std().item() == pytest.approx(1.0, abs=0.05)
        found = memory.address(features)[1, 5].double()
        torch.testing.assert_close(found[~near_the_drop], weights[~near_the_drop], rtol=0, atol=2e-3)
    assert (found.max() > 0.05) == (addressing == "sharp")


def test_the_score_is_eq_7_of_the_ranges() -> None:
    torch.manual_seed(0)
    model = small_model(gamma=0.3).eval()
    model.score.calibrate(torch.tensor([10.0, 30.0]), torch.tensor([0.5, 2.5]))
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    scores = model.scores(images)
    expected = 0.3 * (scores.reconstruction - 10) / 20 + 0.7 * (scores.alignment - 0.5) / 2
    torch.testing.assert_close(model(images).pred_score, expected)


def test_explanations_are_reconstructions_and_reads() -> None:
    model = small_model().eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    seen, expected, reads = model.explain(images)
    assert torch.equal(seen, images)
    assert torch.equal(expected, model.autoencoder(images))
    assert [read.items is memory.items for read, memory in zip(reads, model.autoencoder.memories, strict=True)] == [
        True
    ] * 3


def test_daad_has_no_discriminator() -> None:
    model = small_model(adversarial=False).eval()
    assert model.discriminator is None
    assert model.scores(torch.rand(2, 3, 32, 32)).alignment is None
    assert model(torch.rand(2, 3, 32, 32)).pred_score.shape == (2,)


@pytest.mark.parametrize("adversarial", [True, False])
def test_scores_do_not_depend_on_batch_size_or_order(adversarial) -> None:
    torch.manual_seed(0)
    model = small_model(adversarial=adversarial).eval()
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    model.score.calibrate(*model.scores(images[:4]))
    expected = model(images)
    order = torch.randperm(8)
    for size in (1, 3, 8):
        batches = [model(batch) for batch in images[order].split(size)]
        scores = torch.cat([batch.pred_score for batch in batches])
        maps = torch.cat([batch.anomaly_map for batch in batches])
        torch.testing.assert_close(scores, expected.pred_score[order], rtol=0, atol=1e-5)
        torch.testing.assert_close(maps, expected.anomaly_map[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (100, 128)}, ["100x128", "32x32"]),
        ({"image_size": (32, 32), "division_rates": (8, 2, 1)}, ["32x32", "64x16", "(8, 2)"]),
        ({"division_rates": (2, 2, 3)}, ["(2, 2, 3)", "channels 4"]),
        ({"num_items": 0}, ["num_items", "got 0"]),
        ({"base_channels": 0}, ["base_channels", "at least 1"]),
        ({"gamma": 1.5}, ["gamma", "[0, 1]", "1.5"]),
        ({"addressing": "dot"}, ["addressing", "sharp", "paper", "dot"]),
        ({"gamma": -0.1}, ["gamma", "[0, 1]", "-0.1"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        small_model(**arguments)
    assert all(word in str(error.value) for word in words)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3, 32, 32.*3, 64, 64.*image_size"):
        small_model().eval()(torch.rand(1, 3, 64, 64))

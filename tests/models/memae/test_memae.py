# SPDX-License-Identifier: Apache-2.0

"""MemAE: its memory, its loss and its score."""

import logging

import numpy as np
import pytest
import torch
from anomalib.models import get_model
from scipy.ndimage import gaussian_filter

from anomalib_daad import MemAe
from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.memae.torch_model import MemAeModel, mean_square
from anomalib_daad.training import divergence

TINY = {"image_size": (32, 32), "num_items": 10, "base_channels": 4}


def test_one_memory_of_pixels_at_the_bottleneck_is_memaes() -> None:
    *others, memory = MemAe(image_size=(64, 64)).model.autoencoder.memories
    assert not any(isinstance(other, BlockMemory) for other in others)
    assert (memory.feature_shape, memory.division_rates) == ((512, 4, 4), (4, 4, 1))
    assert memory.items.shape == (2000, 512)
    bound = 512**-0.5
    assert memory.items.abs().max() <= bound
    assert memory.items.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)  # of a uniform distribution
    features = 3 * torch.randn(2, 512, 4, 4)
    weights = memory.address(features).flatten(0, 1)
    query = features[1, :, 2, 3].double()
    alike = (query @ memory.items.double().T).exp()
    expected = alike / alike.sum() * (alike / alike.sum() >= 0.0025)  # the lambda of MemAE's code
    torch.testing.assert_close(weights[16 + 11].double(), expected / expected.sum(), rtol=0, atol=1e-5)
    assert 0 < (weights[27] > 0).sum() < 200
    assert (memory.drop_below, memory.temperature, memory.similarity) == (5.0, 1.0, "inner_product")


def test_scores_and_maps_follow_their_definitions() -> None:
    torch.manual_seed(0)
    model = MemAeModel(**TINY, shrinkage=1.0).eval()
    model.score.calibrate(torch.tensor([0.1, 0.3]), None)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    scores, output = model.scores(images), model(images)
    assert scores.alignment is None
    for index, image in enumerate(images[:, None]):
        squares = ((image - model.autoencoder(image)) ** 2).detach().double().numpy()[0]
        assert scores.reconstruction[index].item() == pytest.approx(squares.mean(), rel=1e-5)
        assert output.pred_score[index].item() == pytest.approx((squares.mean() - 0.1) / 0.2, rel=1e-4)
        blurred = gaussian_filter(squares.mean(axis=0), 4.0, mode="nearest", truncate=4.0)
        np.testing.assert_allclose(output.anomaly_map[index, 0], blurred, rtol=0, atol=1e-5)


def test_errors_of_half_precision_batches_are_taken_in_float32() -> None:
    first, second = torch.full((1, 4), 300.0).half(), torch.full((1, 4), -300.0).half()
    assert mean_square(first, second).item() == pytest.approx(360000.0)


@pytest.mark.parametrize("weight", [2e-4, 100.0, 0.0])
def test_the_loss_is_the_mean_squared_error_and_the_weighted_entropy(weight) -> None:
    torch.manual_seed(0)
    model = MemAe(**TINY, entropy=weight, shrinkage=1.0).eval()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    rebuilt, (read,) = model.model.autoencoder.reconstruct(images)
    rows = read.weights.detach().double().flatten(0, 1).numpy()
    entropies = [-sum(w * np.log(w) for w in row if w > 0) for row in rows]
    error = ((images - rebuilt) ** 2).mean().item()
    result = model.losses(images)
    assert result.losses[0].item() == pytest.approx(error + weight * np.mean(entropies), rel=1e-4)
    assert result.logged["train_rec"].item() == pytest.approx(error, rel=1e-5)
    assert result.scores.alignment is None


def test_memae_learns_and_reloads(make_datamodule, make_engine) -> None:
    model, datamodule = MemAe(**TINY, seed=0, learning_rate=2e-3, shrinkage=1.0), make_datamodule()
    before = model.model.autoencoder.memories[-1].items.clone()
    engine = make_engine(max_epochs=4)
    metrics = engine.train(model, datamodule=datamodule)[0]
    assert np.isfinite(metrics["image_AUROC"])
    assert not torch.equal(model.model.autoencoder.memories[-1].items, before)
    again = MemAe.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    for name, value in model.state_dict().items():
        if name.startswith("model."):
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_inference_and_export_give_the_same_scores() -> None:
    torch.manual_seed(0)
    model = MemAeModel(**{**TINY, "base_channels": 16}, shrinkage=1.5).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected, rewritten = model(images), for_inference(model)
    exported = torch.export.export(rewritten, (images,)).module()
    for network in (rewritten, exported):
        torch.testing.assert_close(network(images).pred_score, expected.pred_score, rtol=0, atol=1e-4)
        torch.testing.assert_close(network(images).anomaly_map, expected.anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [9.9, 1.0])
def test_a_memory_that_answers_nothing_is_said(shrinkage, make_datamodule, make_engine, caplog) -> None:
    with caplog.at_level(logging.WARNING, divergence.__name__):
        make_engine(max_epochs=1).fit(MemAe(**TINY, seed=0, shrinkage=shrinkage), datamodule=make_datamodule())
    said = [record.message for record in caplog.records if "keeps no item" in record.message]
    assert len(said) == (shrinkage > 5)
    assert all("100% of the blocks" in line and "shrinkage" in line for line in said)


def test_anomalib_knows_memae() -> None:
    assert isinstance(get_model("mem_ae"), MemAe)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_items": 0}, ["num_items", "at least 1"]),
        ({"entropy": -1.0}, ["entropy", "-1.0"]),
        ({"learning_rate": 0.0}, ["learning_rate", "positive"]),
        ({"shrinkage": -1.0}, ["shrinkage", "-1.0"]),
        ({"image_size": (72, 64)}, ["72x64", "16x16"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        MemAe(**{**TINY, **arguments})
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)

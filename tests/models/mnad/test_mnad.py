# SPDX-License-Identifier: Apache-2.0

"""MNAD against loops written from its formulas."""

import math

import numpy as np
import pytest
import torch
from anomalib.models import get_model
from lightning.pytorch.callbacks import Callback
from torch import nn

from anomalib_daad import Mnad
from anomalib_daad.components.memory_loss import MemoryLoss
from anomalib_daad.models.mnad.prototype_memory import PrototypeMemory
from anomalib_daad.models.mnad.torch_model import MnadModel

TINY = {"image_size": (32, 32), "num_items": 10, "base_channels": 4}


def unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def dot(first: list[float], second: list[float]) -> float:
    return sum(x * y for x, y in zip(first, second, strict=True))


def test_mnad_reads_by_its_formula() -> None:
    torch.manual_seed(0)
    memory = PrototypeMemory(6, 4).double()
    features = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    read = memory.read(features)
    assert torch.equal(memory(features), read.features)
    items = memory.items.tolist()
    for image in range(2):
        for row in range(3):
            for column in range(2):
                query = unit(features[image, :, row, column].tolist())
                exponentials = [math.exp(dot(query, item)) for item in items]
                weights = [e / sum(exponentials) for e in exponentials]
                expected = query + [sum(w * item[c] for w, item in zip(weights, items, strict=True)) for c in range(6)]
                np.testing.assert_allclose(read.features[image, :, row, column], expected, atol=1e-12)
                np.testing.assert_allclose(read.weights[image, 2 * row + column], weights, atol=1e-12)


def test_no_gradient_flows_through_the_memorys_half() -> None:
    """`concat_memory = torch.matmul(softmax_score_memory.detach(), self.keys)` in MNAD's Memory.py."""
    memory = PrototypeMemory(6, 4).double()
    features = torch.randn(2, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    read = memory.read(features)
    read.features[:, 6:].sum().backward(retain_graph=True)
    assert not features.grad.any()
    read.features[:, 0].sum().backward()
    assert features.grad.any()


def test_queries_have_signs() -> None:
    model = MnadModel(**TINY, gamma=0.7)
    queries = model.reconstruct(torch.rand(4, 3, 32, 32) * 2 - 1).reads[0].queries
    assert 0.3 < (queries < 0).float().mean() < 0.7
    assert queries.min() < -0.3 * queries.max()  # LeakyReLU would leave a fifth of it


def test_mnad_updates_by_its_formula() -> None:
    torch.manual_seed(1)
    memory = PrototypeMemory(5, 4).double()
    before = memory.items.tolist()
    queries = torch.nn.functional.normalize(torch.randn(2, 6, 5, dtype=torch.float64), dim=2)
    memory.update(queries)
    rows = queries.flatten(0, 1).tolist()
    for n, item in enumerate(before):
        exponentials = [math.exp(dot(query, item)) for query in rows]
        v = [e / sum(exponentials) for e in exponentials]
        mine = [k for k, query in enumerate(rows) if max(range(4), key=lambda j: dot(query, before[j])) == n]
        moved = [item[c] + sum(v[k] / max(v) * rows[k][c] for k in mine) for c in range(5)]
        np.testing.assert_allclose(memory.items[n], unit(moved), atol=1e-12)
    assert not memory.items.requires_grad


def test_mnad_scores_by_its_formula(make_datamodule, make_engine) -> None:
    """lambda (1 - g(P)) + (1 - lambda) g(D), each scaled by the validation images."""
    model, datamodule = Mnad(**TINY, seed=0), make_datamodule()
    before = model.model.memory.items.clone()
    make_engine(max_epochs=2).fit(model, datamodule=datamodule)
    items = model.model.memory.items
    assert not torch.equal(items, before)
    torch.testing.assert_close(items.norm(dim=1), torch.ones(10))
    model.eval()
    psnr, distances = [], []
    for item in datamodule.val_data:
        image = model.pre_processor.transform(item.image[None])
        with torch.no_grad():
            output = model.model.reconstruct(image)
        error = np.mean(((image - output.reconstructions).numpy() / 2) ** 2)
        psnr.append(10 * math.log10(1 / error))
        queries = output.reads[0].queries[0].tolist()
        distances.append(np.mean([min(math.dist(query, m) for m in items.tolist()) for query in queries]))
    psnr, distances = np.array(psnr), np.array(distances)
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in (psnr, distances)]
    expected = 0.7 * (1 - scaled[0]) + 0.3 * scaled[1]
    scores = [
        float(model.model(model.pre_processor.transform(item.image[None])).pred_score) for item in datamodule.val_data
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


@pytest.mark.parametrize("num_items", [0, 1, 10])
def test_mnad_learns_and_reloads(make_datamodule, make_engine, num_items) -> None:
    model = Mnad(**{**TINY, "num_items": num_items}, seed=0, learning_rate=2e-3, uniform_use=0.1)
    engine = make_engine(max_epochs=4)
    metrics = engine.train(model, datamodule=make_datamodule())[0]
    assert np.isfinite(metrics["image_AUROC"])
    again = Mnad.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path or engine.best_model_path)
    for name, value in model.state_dict().items():
        if name.startswith("model."):
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    assert engine.trainer.optimizers[0].param_groups[0]["lr"] < 2e-3  # the cosine schedule went on


@pytest.mark.parametrize("uniform_use", [0.0, 3.0])
def test_the_loss_is_the_mean_squared_error_and_its_terms(uniform_use) -> None:
    model = Mnad(**TINY, uniform_use=uniform_use, seed=0).eval()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    output = model.model.reconstruct(images)
    weights = {"compactness": 0.01, "separateness": 0.01, "uniform_use": uniform_use}
    expected = ((images - output.reconstructions) ** 2).mean() + MemoryLoss(weights)(output.reads)
    torch.testing.assert_close(model.losses(images).losses[0], expected)
    assert Mnad(**{**TINY, "num_items": 1}).losses(images).losses[0].isfinite()  # no second item to be separate from


def test_anomalib_knows_mnad() -> None:
    assert isinstance(get_model("mnad"), Mnad)


@pytest.mark.parametrize("num_items", [0, 10])
def test_mnad_exports(num_items) -> None:
    model = MnadModel(**{**TINY, "num_items": num_items}, gamma=0.7).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    exported = torch.export.export(model, (images,)).module()(images)
    torch.testing.assert_close(exported.pred_score, model(images).pred_score)
    torch.testing.assert_close(exported.anomaly_map, model(images).anomaly_map)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_items": -1}, ["num_items", "-1"]),
        ({"uniform_use": -0.5}, ["uniform_use", "-0.5"]),
        ({"image_size": (44, 32)}, ["44x32", "8x8"]),
        ({"image_size": (72, 64)}, ["72x64", "16x16"]),
        ({"learning_rate": 0.0}, ["learning_rate", "positive"]),
        ({"gamma": 1.5}, ["gamma", "[0, 1]", "1.5"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Mnad(**{**TINY, **arguments})
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_a_memory_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match="num_items must be at least 1, got 0"):
        PrototypeMemory(8, 0)


def test_a_longer_resumed_training_takes_its_own_length(make_datamodule, make_engine) -> None:
    engine = make_engine(max_epochs=1, limit_val_batches=0)
    engine.fit(Mnad(**TINY, seed=0), datamodule=make_datamodule())
    path = engine.trainer.checkpoint_callback.best_model_path
    model, rates = Mnad(**TINY, seed=0), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"] / pl_module.learning_rate)

    engine = make_engine(max_epochs=4, limit_val_batches=0, callbacks=[Watch()])  # epochs of three steps
    engine.fit(model, datamodule=make_datamodule(), ckpt_path=path)
    assert rates[1:] == pytest.approx([(1 + math.cos(math.pi * step / 12)) / 2 for step in range(4, 12)])

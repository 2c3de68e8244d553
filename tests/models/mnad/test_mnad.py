# SPDX-License-Identifier: Apache-2.0

"""The paper's other systems: AE, AE+Skip, MemAE and MNAD, against loops written from their formulas."""

import math

import numpy as np
import pytest
import torch
from anomalib.models import get_model
from conftest import make_model
from torch import nn

from anomalib_daad import Daad, Mnad
from anomalib_daad.components.autoencoder import MemoryAutoencoder
from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.components.inference import for_inference
from anomalib_daad.components.memory_loss import MemoryLoss, compactness, entropy, separateness, uniform_use
from anomalib_daad.models.daad.torch_model import DaadModel
from anomalib_daad.models.mnad.prototype_memory import PrototypeMemory
from anomalib_daad.models.mnad.torch_model import MnadModel

TINY = {"image_size": (32, 32), "num_items": 10, "base_channels": 4}


def unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def dot(first: list[float], second: list[float]) -> float:
    return sum(x * y for x, y in zip(first, second, strict=True))


def read_inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and items, neither of unit length."""
    torch.manual_seed(seed)
    return torch.randn(2, 6, 5, dtype=torch.float64), 3 * torch.randn(4, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("connections", "memories", "scales_seen"),
    [("memory", 4, 4), ("bottleneck_memory", 1, 1), ("skip", 0, 4), ("none", 0, 1)],
)
def test_connections(connections, memories, scales_seen) -> None:
    """How many banks there are, and which scales' features the reconstruction depends on."""
    autoencoder = MemoryAutoencoder(**TINY, division_rates=(2, 2, 1), connections=connections).eval()
    images = torch.randn(2, 3, 32, 32)
    reconstruction, reads = autoencoder.reconstruct(images)
    assert torch.equal(reconstruction, autoencoder(images))
    assert len(reads) == sum(isinstance(memory, BlockMemory) for memory in autoencoder.memories) == memories
    features = [feature.detach().requires_grad_() for feature in autoencoder.encoder(images)]
    autoencoder.decoder(features).sum().backward()
    assert [feature.grad is not None for feature in features] == [False] * (4 - scales_seen) + [True] * scales_seen


def test_plain_connections_pass_the_features_on() -> None:
    autoencoder = MemoryAutoencoder(**TINY, division_rates=None, connections="skip").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(autoencoder(images), autoencoder.decoder(autoencoder.encoder(images)))


def test_without_rates_every_pixel_is_a_block() -> None:
    autoencoder = MemoryAutoencoder(**TINY, division_rates=None, connections="memory")
    features = autoencoder.encoder(torch.randn(2, 3, 32, 32))
    for memory, feature in zip(autoencoder.memories, features, strict=True):
        queries = memory.divide(feature)
        assert torch.equal(queries, feature.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 3.0])
def test_drop_is_the_hard_shrinkage_of_memae(times) -> None:
    """MemAE: relu(w - lambda) w / (|w - lambda| + epsilon), then divided by the sum."""
    torch.manual_seed(0)
    memory = BlockMemory((8, 4, 4), (4, 4, 1), 20, temperature=0.5, renormalize=True, drop_below=times).double()
    features = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    weights, shrink = memory.address(features), times / 20
    kept = 0
    for query, row in zip(
        features.flatten(2).transpose(1, 2).flatten(0, 1).tolist(), weights.flatten(0, 1), strict=True
    ):
        exponentials = [math.exp(dot(unit(query), unit(item)) / 0.5) for item in memory.items.tolist()]
        w = [e / sum(exponentials) for e in exponentials]
        shrunk = [max(x - shrink, 0) * x / (abs(x - shrink) + 1e-12) for x in w]
        expected = [x / max(sum(shrunk), 1e-12) for x in shrunk]
        kept += sum(x > 0 for x in expected)
        np.testing.assert_allclose(row.tolist(), expected, atol=1e-9)
    assert 0 < kept < weights.numel()


def test_nothing_above_the_threshold_reads_zero() -> None:
    memory = BlockMemory((8, 4, 4), (4, 4, 1), 20, renormalize=True, drop_below=19.0)
    features = torch.randn(2, 8, 4, 4, requires_grad=True)
    read = memory(features)
    read.sum().backward()
    assert read.abs().max() == 0
    assert features.grad.isfinite().all()


def test_zero_keeps_all() -> None:
    memory = BlockMemory((8, 4, 4), (4, 4, 1), 20, drop_below=0.0)
    weights = memory.address(torch.randn(2, 8, 4, 4))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 16))


def test_memory_losses_are_their_formulas() -> None:
    queries, items = read_inputs()
    weights = torch.rand(2, 6, 4, dtype=torch.float64) * (torch.rand(2, 6, 4) > 0.3)
    rows, q = weights.flatten(0, 1).tolist(), [unit(x) for x in queries.flatten(0, 1).tolist()]
    m = [unit(x) for x in items.tolist()]
    entropies = [-sum(w * math.log(w) for w in row if w > 0) for row in rows]
    assert float(entropy(weights)) == pytest.approx(sum(entropies) / 12)
    uses = [sum(row[n] for row in rows) / 12 for n in range(4)]
    assert float(uniform_use(weights)) == pytest.approx(sum((use - 0.25) ** 2 for use in uses) / 4)

    near, triplets = [], []
    for query in q:
        order = sorted(range(4), key=lambda n: -dot(query, m[n]))
        distances = [math.dist(query, m[n]) for n in order]
        near.append(distances[0] ** 2 / 5)  # the mean of the elements
        triplets.append(max(distances[0] - distances[1] + 1, 0))
    assert float(compactness(queries, items)) == pytest.approx(sum(near) / 12)
    assert float(separateness(queries, items)) == pytest.approx(sum(triplets) / 12, rel=1e-5)


@pytest.mark.parametrize("term", ["entropy", "compactness", "separateness", "uniform_use"])
def test_memory_losses_train_the_block_memory(term) -> None:
    """One step down the loss makes it smaller, and the total of Daad grows by it."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    sharp = {"temperature": 0.1, "renormalize": True}  # few items near the drop, which no gradient sees
    plain, model = make_model(**sharp), make_model(**sharp, memory_losses={term: 100.0})
    model.load_state_dict(plain.state_dict())
    reads = model.model.autoencoder.reconstruct(images).reads
    loss = MemoryLoss({term: 1.0})
    before = loss(reads)
    totals = [module.losses(images).losses[0] for module in (plain, model)]
    assert (totals[1] - totals[0]).item() == pytest.approx(100 * before.item(), rel=1e-2, abs=1e-2)
    parameters = [read.items for read in reads]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, torch.autograd.grad(before, parameters), strict=True):
            parameter -= 0.1 * gradient / gradient.norm()
    assert loss(model.model.autoencoder.reconstruct(images).reads) < before


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
    model = Mnad(**{**TINY, "num_items": num_items}, seed=0, learning_rate=2e-3, memory_losses={"uniform_use": 0.1})
    engine = make_engine(max_epochs=4)
    metrics = engine.train(model, datamodule=make_datamodule())[0]
    assert np.isfinite(metrics["image_AUROC"])
    again = Mnad.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path or engine.best_model_path)
    for name, value in model.state_dict().items():
        if name.startswith("model."):
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    assert engine.trainer.optimizers[0].param_groups[0]["lr"] < 2e-3  # the cosine schedule went on


def test_anomalib_knows_mnad() -> None:
    assert isinstance(get_model("mnad"), Mnad)


SYSTEMS = {
    "AE": {"connections": "none"},
    "AE+Skip": {"connections": "skip"},
    "MemAE": {"connections": "bottleneck_memory", "division_rates": None, "renormalize": True, "drop_below": 1.5},
    "MemAE+Skip": {"connections": "memory", "division_rates": None},
    "DAAD": {"drop_below": 0.5},
}


@pytest.mark.parametrize("adversarial", [True, False])
@pytest.mark.parametrize("name", SYSTEMS)
def test_inference_and_export_give_the_same_scores(name, adversarial) -> None:
    torch.manual_seed(0)
    arguments = {**TINY, "division_rates": (2, 2, 1), "base_channels": 16, **SYSTEMS[name]}
    model = DaadModel(**arguments, adversarial=adversarial).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected, rewritten = model(images), for_inference(model)
    exported = torch.export.export(rewritten, (images,)).module()
    for network in (rewritten, exported):
        torch.testing.assert_close(network(images).pred_score, expected.pred_score, rtol=0, atol=1e-4)
        torch.testing.assert_close(network(images).anomaly_map, expected.anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_items", [0, 10])
def test_mnad_exports(num_items) -> None:
    model = MnadModel(**{**TINY, "num_items": num_items}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    exported = torch.export.export(model, (images,)).module()(images)
    torch.testing.assert_close(exported.pred_score, model(images).pred_score)
    torch.testing.assert_close(exported.anomaly_map, model(images).anomaly_map)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Daad(**TINY, division_rates=(2, 2, 1), connections="unet"),
            ["bottleneck_memory", "unet"],
        ),
        (lambda: Daad(**TINY, division_rates=(2, 2, 1), memory_losses={"sparsity": 1.0}), ["entropy", "sparsity"]),
        (lambda: Daad(**TINY, division_rates=(2, 2, 1), memory_losses={"entropy": -1.0}), ["entropy", "-1.0"]),
        (lambda: Daad(**TINY, division_rates=(2, 2, 1), drop_below=-1.0), ["drop_below", "not negative"]),
        (lambda: Daad(**{**TINY, "image_size": (40, 32)}, division_rates=None), ["40x32", "16x16"]),
        (lambda: Mnad(**{**TINY, "num_items": -1}), ["num_items", "-1"]),
        (lambda: Mnad(**{**TINY, "image_size": (40, 32)}), ["40x32", "16x16"]),
        (lambda: Mnad(**TINY, learning_rate=0.0), ["learning_rate", "positive"]),
    ],
)
def test_bad_arguments_are_named(build, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        build()
    assert all(word in str(error.value) for word in words)


def test_separateness_needs_two_items() -> None:
    model = Daad(**{**TINY, "num_items": 1}, division_rates=(2, 2, 1), memory_losses={"separateness": 0.1})
    with pytest.raises(ValueError, match="num_items to at least 2"):
        model.losses(torch.rand(2, 3, 32, 32))

# SPDX-License-Identifier: Apache-2.0

"""Losses on what a memory does, against loops written from their formulas."""

import math

import pytest
import torch

from anomalib_daad.components.autoencoder import MemoryAutoencoder, memory_of
from anomalib_daad.components.memory_loss import MemoryLoss, compactness, entropy, separateness, uniform_use


def unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def dot(first: list[float], second: list[float]) -> float:
    return sum(x * y for x, y in zip(first, second, strict=True))


def read_inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and items, neither of unit length."""
    torch.manual_seed(seed)
    return torch.randn(2, 6, 5, dtype=torch.float64), 3 * torch.randn(4, 5, dtype=torch.float64)


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
    """One step down the loss makes it smaller."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    sharp = memory_of(10, temperature=0.1, renormalize=True)  # few items near the drop, which no gradient sees
    autoencoder = MemoryAutoencoder((32, 32), (2, 2, 1), sharp, base_channels=4)
    reads = autoencoder.reconstruct(images).reads
    loss = MemoryLoss({term: 1.0})
    before = loss(reads)
    assert MemoryLoss({term: 100.0})(reads).item() == pytest.approx(100 * before.item(), rel=1e-5)
    parameters = [read.items for read in reads]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, torch.autograd.grad(before, parameters), strict=True):
            parameter -= 0.1 * gradient / gradient.norm()
    assert loss(autoencoder.reconstruct(images).reads) < before


def test_terms_and_memories_add_up() -> None:
    torch.manual_seed(0)
    reads = (
        MemoryAutoencoder((32, 32), (2, 2, 1), memory_of(10), base_channels=4)
        .reconstruct(torch.rand(4, 3, 32, 32))
        .reads
    )
    expected = sum(0.5 * entropy(read.weights) + 2 * compactness(read.queries, read.items) for read in reads)
    torch.testing.assert_close(MemoryLoss({"entropy": 0.5, "compactness": 2.0})(reads), expected)
    assert MemoryLoss()(reads) == MemoryLoss({"entropy": 1.0})([]) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [({"sparsity": 1.0}, ["entropy", "sparsity"]), ({"entropy": -1.0}, ["entropy", "-1.0"])],
)
def test_bad_arguments_are_named(given, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        MemoryLoss(given)
    assert all(word in str(error.value) for word in words)


def test_separateness_needs_two_items() -> None:
    autoencoder = MemoryAutoencoder((32, 32), (2, 2, 1), memory_of(1), base_channels=4)
    reads = autoencoder.reconstruct(torch.rand(2, 3, 32, 32)).reads
    with pytest.raises(ValueError, match="num_items to at least 2"):
        MemoryLoss({"separateness": 0.1})(reads)

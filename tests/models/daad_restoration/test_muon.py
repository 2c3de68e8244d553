# SPDX-License-Identifier: Apache-2.0

"""Muon against its paper's loop, the singular value decomposition and PyTorch's Adam."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import make_restoration
from torch import nn

from anomalib_daad.models.daad_restoration.muon import GROUP, MOMENTUM, RATE, Muon, orthogonalize

SHAPES = [(4, 4), (8, 48), (48, 8), (64, 512), (1, 7)]


def newton_schulz(gradient: torch.Tensor) -> torch.Tensor:
    """The paper's loop, in float64 and on whole matrices."""
    x = gradient.double()
    if x.shape[0] > x.shape[1]:
        return newton_schulz(gradient.T).T
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_orthogonal_matrices_are_those_of_the_papers_loop(shape, scale) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    torch.testing.assert_close(orthogonalize(matrix).double(), newton_schulz(matrix), rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(8, 48), (48, 8), (64, 512)])
def test_directions_stay_and_their_strengths_become_alike(shape) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalize(matrix) @ right.T
    strengths = turned.diagonal()
    assert strengths.min() > 0.65
    assert strengths.max() < 1.25
    torch.testing.assert_close(turned, strengths.diag(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("shape", [(32, 16), (64, 512)])
def test_gradients_of_low_rank_are_no_large_steps_in_half_precision(rank, shape) -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        step = orthogonalize(matrix)
    torch.testing.assert_close(step.double(), newton_schulz(matrix), rtol=0, atol=1e-3)
    assert torch.linalg.matrix_norm(orthogonalize(matrix.bfloat16()), 2) < 1.3


def test_no_gradient_is_no_step() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    tall, wide = nn.Conv2d(3, 60, 4), nn.ConvTranspose2d(60, 8, 4)  # matrices of 60x48 and 60x128
    network = nn.Sequential(tall, nn.BatchNorm2d(60), wide, nn.Flatten(), nn.Linear(2048, 1))
    return network.to(memory_format=torch.channels_last)


def backward(network: nn.Module, seed: int) -> torch.Tensor:
    loss = network(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))).square().mean()
    network.zero_grad()
    loss.backward()
    return loss


@pytest.mark.parametrize("is_told", [True, False])
def test_kernels_step_along_orthogonal_matrices_and_others_as_in_adam(is_told) -> None:
    network = make_network()
    reference = copy.deepcopy(network)
    kernels = {name for name, weight in network.named_parameters() if weight.ndim == 4}
    assert kernels == {"0.weight", "2.weight"}
    optimizer = Muon(network.parameters(), lr=0.01, transposed=[network[2].weight] if is_told else ())
    others = [weight for name, weight in reference.named_parameters() if name not in kernels]
    adam = torch.optim.Adam(others, lr=0.01)
    momenta = dict.fromkeys(kernels, 0.0)
    for step in range(4):
        if step == 2:  # as a schedule would
            optimizer.param_groups[0]["lr"] = adam.param_groups[0]["lr"] = 0.003
        backward(network, step)
        backward(reference, step)
        gradients = [weight.grad.clone() for weight in network.parameters()]
        optimizer.step()
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            assert torch.equal(weight.grad, gradient)
        adam.step()
        with torch.no_grad():
            for name, weight in reference.named_parameters():
                if name in kernels:
                    momenta[name] = MOMENTUM * momenta[name] + weight.grad
                    direction = weight.grad + MOMENTUM * momenta[name]
                    order = (1, 0, 2, 3) if is_told and name == "2.weight" else (0, 1, 2, 3)
                    matrix = direction.permute(order).reshape(direction.shape[order[0]], -1)  # out by in
                    rate = RATE * adam.param_groups[0]["lr"] * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                    step = newton_schulz(matrix).float().view(direction.permute(order).shape)
                    weight -= rate * step.permute(order)
        for (name, weight), expected in zip(network.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-4, msg=name)
            with torch.no_grad():
                weight.copy_(expected)


@pytest.mark.parametrize("size", [4, 6])  # groups of more outputs than inputs, and of fewer
@pytest.mark.parametrize("is_transposed", [False, True])
def test_groups_of_many_outputs_are_orthogonal_each(is_transposed, size) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 256, size) if is_transposed else nn.Conv2d(4, 256, size)
    before = layer.weight.detach().clone()
    optimizer = Muon([layer.weight], lr=0.01, transposed=[layer.weight] if is_transposed else [])
    layer.weight.grad = torch.randn_like(layer.weight)
    gradient = (1 + MOMENTUM) * layer.weight.grad
    optimizer.step()
    order = (1, 0, 2, 3) if is_transposed else (0, 1, 2, 3)
    matrix = gradient.permute(order).reshape(256, -1)
    expected = torch.cat([newton_schulz(group) for group in matrix.split(GROUP)]).float()
    rate = RATE * 0.01 * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    step = (before - layer.weight.detach()).permute(order).reshape(256, -1) / rate
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-3)


def test_a_restored_state_goes_on_as_the_saved_one() -> None:
    network = make_network()
    optimizer = Muon(network.parameters(), lr=0.01)
    for step in range(2):
        backward(network, step)
        optimizer.step()
    other = copy.deepcopy(network)
    restored = Muon(other.parameters(), lr=0.5)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for weights, stepped in ((network, optimizer), (other, restored)):
        backward(weights, 2)
        stepped.step()
    for first, second in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_closure_is_called_before_the_step() -> None:
    network, twin = make_network(), make_network()
    loss = Muon(network.parameters(), lr=0.01).step(lambda: backward(network, 0))
    expected = backward(twin, 0)
    Muon(twin.parameters(), lr=0.01).step()
    assert torch.equal(loss, expected)
    for first, second in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_restoration_trains_both_networks_with_it() -> None:
    model = make_restoration()
    model.trainer = SimpleNamespace(
        state=SimpleNamespace(fn=None),
        estimated_stepping_batches=10,
        callbacks=[],
        max_epochs=1,
        max_steps=-1,
        fit_loop=None,
    )
    (optimizer,), _ = model.configure_optimizers()
    assert type(optimizer) is Muon
    chosen = {id(weight) for weight in optimizer.param_groups[0]["params"]}
    assert chosen == {id(weight) for weight in model.model.parameters()}
    decoder = {id(layer.weight) for layer in model.model.modules() if isinstance(layer, nn.ConvTranspose2d)}
    assert {id(weight) for weight in optimizer._transposed} == decoder
    assert decoder


def test_a_training_in_bfloat16_moves_kernels_no_further_than_orthogonal_steps(
    make_datamodule, make_engine, monkeypatch
) -> None:
    monkeypatch.setattr("anomalib_daad.training.precision.computes_bfloat16", lambda _: True)
    model = make_restoration(learning_rate=1e-3)
    before = copy.deepcopy(model.model)
    make_engine(max_steps=6, precision="bf16-mixed").fit(model, datamodule=make_datamodule())
    assert model.trainer.precision == "bf16-mixed"
    for layer, old in zip(model.model.modules(), before.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            moved = (layer.weight - old.weight).detach()
            moved = moved.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else moved
            rows, columns = moved.flatten(1).shape
            furthest = 6 * 1.25 * RATE * 1e-3 * max(1, rows / columns) ** 0.5
            assert torch.linalg.matrix_norm(moved.flatten(1), 2) <= furthest, layer

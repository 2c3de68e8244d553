# SPDX-License-Identifier: Apache-2.0

"""What was made fast gives the scores, weights and gradients of the plain version."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, cosine_similarity

from anomalib_daad.commands.speed.limit import count_work
from anomalib_daad.components.autoencoder import DROP_WIDTH, MemoryAutoencoder, memory_of
from anomalib_daad.components.block_memory import BlockMemory, MemoryRead
from anomalib_daad.components.inference import ImageSpaceRead, for_inference
from anomalib_daad.models.daad.torch_model import DaadModel

SMALL = {"image_size": (64, 64), "division_rates": (4, 4, 1), "num_items": 40, "base_channels": 8}


def plain_read(memory: BlockMemory, features: torch.Tensor) -> torch.Tensor:
    """Eq. 1 and 2 with PyTorch's cosine, softmax and fold, no product shared or cached, the drop's ramp as it is.

    At the memory's temperature, and renormalised where it renormalises.
    """
    kernel = memory.block_shape[1:]
    queries = nn.functional.unfold(features.contiguous(), kernel, stride=kernel).transpose(1, 2)  # (B, Q, D)
    cosines = torch.stack([cosine_similarity(queries, item, dim=-1) for item in memory.items], dim=-1)
    weights = torch.softmax(cosines / memory.temperature, dim=-1)  # (B, Q, N)
    below = torch.log(weights.detach() * len(memory.items))
    weights = weights * (1 + below / DROP_WIDTH).clamp(0, 1)
    weights = weights / weights.sum(dim=-1, keepdim=True) if memory.renormalize else weights
    return nn.functional.fold((weights @ memory.items).transpose(1, 2), features.shape[2:], kernel, stride=kernel)


def convolution_read(memory: BlockMemory, features: torch.Tensor) -> torch.Tensor:
    """The same as a strided convolution with the items for kernels, and its transpose."""
    kernel = memory.block_shape[1:]
    items = memory.items.reshape(-1, *memory.block_shape)
    norms = conv2d(features.square(), torch.ones_like(items[:1]), stride=kernel).sqrt()
    cosines = conv2d(features, items, stride=kernel) / (norms * memory.items.norm(dim=1)[:, None, None])
    weights = torch.softmax(cosines / memory.temperature, dim=1)  # (B, N, r_h, r_w)
    below = torch.log(weights.detach() * len(items))
    weights = weights * (1 + below / DROP_WIDTH).clamp(0, 1)
    weights = weights / weights.sum(dim=1, keepdim=True) if memory.renormalize else weights
    return conv_transpose2d(weights, items, stride=kernel)


def plain_memory_read(memory: BlockMemory, read, features: torch.Tensor) -> MemoryRead:
    return BlockMemory.read(memory, features)._replace(features=read(memory, features))


def plain_copy(model: DaadModel, read) -> DaadModel:
    """The same weights in the default memory format, without in-place activations, with another read."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        if isinstance(module, BlockMemory):
            module.read = partial(plain_memory_read, module, read)
        elif isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            module.inplace = False
    return plain


def make_model(**arguments) -> DaadModel:
    """A model as the Lightning module makes it, with batch-norm statistics and items of no special scale."""
    torch.manual_seed(0)
    model = DaadModel(**{**SMALL, **arguments}).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, BlockMemory):
            module.items.data *= torch.rand(len(module.items), 1) * 3
    return model


@pytest.fixture
def model() -> DaadModel:
    return make_model()


@pytest.mark.parametrize("read", [plain_read, convolution_read])
def test_scores_and_maps(model, read) -> None:
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    model.eval()
    with torch.no_grad():
        model(images)  # from here on with cached norms
        expected = plain_copy(model, read)
        for part, other in zip(model.scores(images), expected.scores(images), strict=True):
            torch.testing.assert_close(part, other, rtol=0, atol=1e-4)
        output, plain = model(images), expected(images)
    torch.testing.assert_close(output.pred_score, plain.pred_score, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.anomaly_map, plain.anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("read", [plain_read, convolution_read])
def test_gradients(model, read) -> None:
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    gradients = []
    for network in (model.double(), plain_copy(model.double(), read)):
        output = network.train()(images.double())
        loss = (output.reconstructions - images).square().mean()
        loss = loss + (output.fake.features - output.real.features).square().mean()
        gradients.append(torch.autograd.grad(loss, list(network.autoencoder.parameters())))
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-12)


def test_cached_norms_follow_the_items(model) -> None:
    images = torch.rand(1, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        before = model(images).pred_score
        for memory in model.autoencoder.memories:
            memory.items.data[::2] *= -1
            memory.items.mul_(1)
        after = model(images).pred_score
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, plain_copy(model, plain_read)(images).pred_score, rtol=0, atol=1e-4)


@pytest.mark.parametrize("read", [plain_read, convolution_read])
@pytest.mark.parametrize(
    ("arguments", "in_image_space"),
    [
        ({}, True),
        ({"adversarial": False, "image_size": (16, 16), "division_rates": (2, 2, 1)}, True),  # two scales
        ({"image_size": (8, 8), "division_rates": (2, 2, 1)}, False),  # no other scale beside the finest
        ({"division_rates": (1, 2, 1)}, True),
        ({"division_rates": (4, 1, 1), "image_size": (64, 48)}, True),
        ({"division_rates": (1, 1, 1), "base_channels": 3}, False),  # an image has as many pixels
    ],
)
def test_rewritten_for_inference(read, arguments, in_image_space) -> None:
    model = make_model(**{"base_channels": 32, **arguments})
    images = torch.rand(3, 3, *model.image_size) * 2 - 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rewritten = for_inference(model)
    plain = plain_copy(model, read).eval()
    with torch.no_grad():
        for part, other in zip(rewritten.scores(images), plain.scores(images), strict=True):
            if part is not None:
                torch.testing.assert_close(part, other, rtol=0, atol=1e-4)
        torch.testing.assert_close(rewritten(images).anomaly_map, plain(images).anomaly_map, rtol=0, atol=1e-5)
    assert isinstance(rewritten.autoencoder.memories[0], ImageSpaceRead) == in_image_space
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rewritten.modules())
    assert model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rates", [(2, 2, 2), (1, 1, 2)])
def test_items_of_channel_groups_are_read_in_image_space(rates) -> None:
    """With r_c > 1 an item becomes another patch for each group; PyTorch's fold is of no use as a reference here."""
    model = make_model(division_rates=rates, base_channels=32).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    rewritten = for_inference(model)
    assert isinstance(rewritten.autoencoder.memories[0], ImageSpaceRead)
    with torch.no_grad():
        expected = model.autoencoder.double()(images.double())
        torch.testing.assert_close(rewritten.autoencoder(images).double(), expected, rtol=0, atol=1e-4)


def test_rewriting_saves_operations() -> None:
    model = DaadModel(image_size=(64, 64), num_items=100, division_rates=(2, 2, 1), base_channels=32).eval()
    images = torch.rand(1, 3, 64, 64)
    rewritten = for_inference(model)
    with torch.no_grad():
        before, _ = count_work(lambda: model.autoencoder(images))
        after, _ = count_work(lambda: rewritten.autoencoder(images))
    assert after < before


SYSTEMS = {
    "AE": {"connections": "none"},
    "AE+Skip": {"connections": "skip"},
    "MemAE": {"connections": "bottleneck_memory", "division_rates": None},
    "MemAE+Skip": {"connections": "memory", "division_rates": None},
    "DAAD": {},
    "DAAD, inner product": {},
}
MEMORIES = {
    "MemAE": {"renormalize": True, "drop_below": 1.5},
    "MemAE+Skip": {"renormalize": True, "similarity": "inner_product", "temperature": 0.5},
    "DAAD": {"drop_below": 0.5},
    "DAAD, inner product": {"renormalize": True, "init": "uniform", "similarity": "inner_product"},
}


@pytest.mark.parametrize("adversarial", [True, False])
@pytest.mark.parametrize("name", SYSTEMS)
def test_inference_and_export_give_the_same_scores(name, adversarial) -> None:
    torch.manual_seed(0)
    arguments = {"image_size": (32, 32), "division_rates": (2, 2, 1), "num_items": 10, "base_channels": 16}
    arguments |= SYSTEMS[name]
    model = DaadModel(**arguments, adversarial=adversarial).eval()
    if name in MEMORIES:
        memory, connections = memory_of(10, **MEMORIES[name]), arguments.get("connections", "memory")
        model.autoencoder = MemoryAutoencoder((32, 32), arguments["division_rates"], memory, 16, connections).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected, rewritten = model(images), for_inference(model)
    exported = torch.export.export(rewritten, (images,)).module()
    for network in (rewritten, exported):
        torch.testing.assert_close(network(images).pred_score, expected.pred_score, rtol=0, atol=1e-4)
        torch.testing.assert_close(network(images).anomaly_map, expected.anomaly_map, rtol=0, atol=1e-5)

# SPDX-License-Identifier: Apache-2.0

"""The block memory against loops written from eq. 1 and 2."""

import copy
import math

import numpy as np
import pytest
import torch

from anomalib_daad.components.block_memory import BlockMemory

GRID = [
    # feature shape (C, H, W), division rates (r_h, r_w, r_c), N
    ((4, 8, 8), (2, 2, 1), 7),
    ((4, 8, 8), (4, 2, 2), 13),
    ((6, 4, 12), (1, 3, 3), 50),
    ((3, 5, 7), (5, 7, 1), 2),
    ((8, 4, 4), (1, 1, 1), 20),
    ((8, 4, 4), (1, 1, 8), 5),
    ((2, 6, 6), (3, 3, 2), 1),
    ((16, 8, 8), (8, 8, 1), 100),
]


def reference_weights(
    query: list[float],
    items: list[list[float]],
    temperature: float = 1.0,
    renormalize: bool = False,
    similarity: str = "cosine",
) -> list[float]:
    """Eq. 1, or MemAE's softmax of inner products, and the drop at 1/N for one query, in Python's double precision."""

    def norm(vector: list[float]) -> float:
        return math.sqrt(sum(x * x for x in vector))

    exponentials = []
    for item in items:
        scale = norm(query) * norm(item) if similarity == "cosine" else 1.0
        alike = sum(q * m for q, m in zip(query, item, strict=True)) / scale if scale else 0.0
        exponentials.append(math.exp(alike / temperature))
    weights = [e / sum(exponentials) for e in exponentials]
    weights = [0.0 if w < 1 / len(items) - 1e-12 else w for w in weights]
    return [w / sum(weights) for w in weights] if renormalize else weights


def cosine(first: list[float], second: list[float]) -> float:
    return sum(x * y for x, y in zip(first, second, strict=True)) / math.hypot(*first) / math.hypot(*second)


def reference_read(memory: BlockMemory, features: torch.Tensor) -> torch.Tensor:
    """Eq. 2 block by block, each block cut out and put back by its indices."""
    result = torch.full(features.shape, torch.nan, dtype=torch.float64)
    r_h, r_w, r_c = memory.division_rates
    channels, height, width = features.shape[1:]
    c, h, w = channels // r_c, height // r_h, width // r_w
    items = memory.items.detach().double().tolist()
    for image in range(len(features)):
        for row in range(r_h):
            for column in range(r_w):
                for group in range(r_c):
                    block = (
                        image,
                        slice(group * c, (group + 1) * c),
                        slice(row * h, (row + 1) * h),
                        slice(column * w, (column + 1) * w),
                    )
                    query = features[block].double().flatten().tolist()
                    options = (memory.temperature, memory.renormalize, memory.similarity)
                    weights = reference_weights(query, items, *options)
                    read = [
                        sum(weight * item[d] for weight, item in zip(weights, items, strict=True))
                        for d in range(len(query))
                    ]
                    result[block] = torch.tensor(read, dtype=torch.float64).reshape(c, h, w)
    return result


def away_from_step(memory: BlockMemory, features: torch.Tensor) -> bool:
    """Whether no weight is so near to 1/N that rounding decides."""
    queries, items = memory.divide(features).double()[:, :, None], memory.items.double()[None, None]
    if memory.similarity == "cosine":
        similarity = torch.nn.functional.cosine_similarity(queries, items, dim=-1)
    else:
        similarity = (queries * items).sum(dim=-1)
    weights = torch.softmax(similarity / memory.temperature, dim=-1)
    excess = (weights * memory.items.shape[0]).log().abs()
    return bool(((excess > 2e-6) | (excess < 1e-12)).all())


@pytest.mark.parametrize(("shape", "rates", "num_items"), GRID)
@pytest.mark.parametrize(("temperature", "renormalize"), [(1.0, False), (0.1, True), (1.0, True)])
@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_read_equals_reference(shape, rates, num_items, temperature, renormalize, similarity, dtype, training) -> None:
    torch.manual_seed(2)
    memory = BlockMemory(shape, rates, num_items, temperature, renormalize, init="uniform", similarity=similarity)
    memory = memory.to(dtype).train(training)
    features = torch.randn(2, *shape, dtype=dtype)
    assert away_from_step(memory, features)
    with torch.set_grad_enabled(training):
        read = memory(features)
    assert read.dtype == dtype
    torch.testing.assert_close(read.double(), reference_read(memory, features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_products_do_not_overflow_float16(autocast) -> None:
    memory = BlockMemory((64, 32, 32), (2, 2, 1), 5)
    features = memory.assemble(6 * memory.items.detach()[None, :4])  # 6 * 16384 is beyond float16
    expected = memory.address(features)
    if not autocast:
        memory, features = memory.half(), features.half()
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        torch.testing.assert_close(memory.address(features), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_read_in_half_precision_is_near_the_reference(dtype, tolerance) -> None:
    torch.manual_seed(0)
    memory = BlockMemory((16, 8, 8), (2, 2, 1), 10, temperature=0.1).to(dtype)
    features = (100 * torch.randn(2, 16, 8, 8)).to(dtype)  # norms whose squares overflow float16
    read = memory(features)
    assert read.dtype == dtype
    error = (read.double() - reference_read(memory, features)).abs().max()
    assert error < tolerance


def test_the_cosine_cannot_choose_and_the_inner_product_can() -> None:
    """An item that a long block equals: e / (e + N - 1) of the weight at most, or all of it."""
    items = torch.eye(64)
    weights = {}
    for similarity in ("cosine", "inner_product"):
        memory = BlockMemory((16, 2, 2), (1, 1, 1), 64, similarity=similarity, drop_below=0.0)
        with torch.no_grad():
            memory.items.copy_(items)
        weights[similarity] = memory.address(20 * items[3].reshape(1, 16, 2, 2))[0, 0]
    assert weights["cosine"][3].item() == pytest.approx(math.e / (math.e + 63))
    assert weights["inner_product"][3].item() == pytest.approx(1.0)


def test_inner_products_of_any_size_stay_finite() -> None:
    memory = BlockMemory((4, 4, 4), (2, 2, 1), 7, similarity="inner_product")
    features = (1e4 * torch.randn(2, 4, 4, 4)).requires_grad_()
    read = memory(features)
    read.sum().backward()
    assert read.isfinite().all()
    assert features.grad.isfinite().all()
    assert memory.items.grad.isfinite().all()
    assert memory.address(torch.zeros(1, 4, 4, 4)).allclose(torch.tensor(1 / 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"temperature": 0.05}, {"similarity": "inner_product"}, {}])
def test_autocast_reads_as_float32_does(dtype, options) -> None:
    torch.manual_seed(0)
    memory = BlockMemory((16, 8, 8), (4, 4, 1), 50, drop_width=1e-3, init="uniform", **options)
    features = 8 * torch.randn(4, 16, 8, 8).to(dtype).float()  # products of 20 and more
    expected = memory.address(features)
    with torch.autocast("cpu", dtype):
        weights = memory.address(features.to(dtype))
    assert weights.dtype == torch.float32
    if options:
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-4)
    else:  # at temperature 1 products in half precision will do, but for what lies at the drop
        kept = expected > 1.02 / 50
        torch.testing.assert_close(weights[kept], expected[kept], rtol=0.01, atol=0)
        assert ((weights > 0) == (expected > 0)).float().mean() > 0.98


def test_divide_numbers_blocks_by_row_column_group_and_assemble_inverts_it() -> None:
    memory = BlockMemory((4, 6, 8), (3, 2, 2), 5)
    features = torch.arange(2 * 4 * 6 * 8, dtype=torch.float32).reshape(2, 4, 6, 8)
    queries = memory.divide(features)
    assert queries.shape == (2, 12, 16)
    for index, (row, column, group) in enumerate((r, c, g) for r in range(3) for c in range(2) for g in range(2)):
        block = features[:, group * 2 : group * 2 + 2, row * 2 : row * 2 + 2, column * 4 : column * 4 + 4]
        assert torch.equal(queries[:, index], block.flatten(1))
    assert torch.equal(memory.assemble(queries), features)


def test_memory_format_of_the_features_does_not_matter() -> None:
    memory = BlockMemory((8, 8, 8), (4, 4, 2), 10)
    features = torch.randn(3, 8, 8, 8)
    assert torch.equal(memory(features), memory(features.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("renormalize", [False, True])
def test_address_drops_what_is_below_one_over_n(renormalize) -> None:
    torch.manual_seed(0)
    memory = BlockMemory((4, 8, 8), (4, 4, 1), 30, renormalize=renormalize)
    weights = memory.address(torch.randn(2, 4, 8, 8))
    assert weights.shape == (2, 16, 30)
    kept = weights[weights > 0]
    assert 0 < len(kept) < weights.numel()
    assert kept.min() >= (1 / 30) * (1 - 1e-5)
    sums = weights.sum(-1)
    if renormalize:
        torch.testing.assert_close(sums, torch.ones_like(sums))
    else:
        assert (sums < 1).all()


def test_equal_items_are_all_kept() -> None:
    memory = BlockMemory((1, 4, 4), (2, 2, 1), 8)
    with torch.no_grad():
        memory.items.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]).expand(8, 4))
    read = memory(torch.randn(5, 1, 4, 4))
    torch.testing.assert_close(memory.divide(read), memory.items[0].expand(5, 4, 4))


def test_a_drop_width_makes_the_step_a_ramp_below_it() -> None:
    torch.manual_seed(0)
    step = BlockMemory((4, 8, 8), (4, 4, 1), 30).double()
    ramp = BlockMemory((4, 8, 8), (4, 4, 1), 30, drop_width=0.1).double()
    ramp.load_state_dict(step.state_dict())
    features = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    queries = step.divide(features)
    cosine = torch.nn.functional.cosine_similarity(queries[:, :, None], step.items[None, None], dim=-1)
    addressed = (cosine, step.address(features), ramp.address(features))
    for query, hard, soft in zip(*(weights.flatten(0, 1) for weights in addressed), strict=True):
        for c, w_hard, w_soft in zip(query.tolist(), hard.tolist(), soft.tolist(), strict=True):
            w = math.exp(c) / query.exp().sum().item()
            share = min(max(1 + math.log(30 * w) / 0.1, 0), 1)
            assert w_soft == pytest.approx(share * w, abs=1e-9)
            assert w_hard == pytest.approx(w if w >= 1 / 30 else 0, abs=1e-9)


def test_zero_queries_and_items_stay_finite_and_have_cosine_zero() -> None:
    memory = BlockMemory((2, 4, 4), (2, 2, 1), 4)
    with torch.no_grad():
        memory.items[0] = 0
    features = torch.randn(2, 2, 4, 4)
    features[0] = 0
    read = memory(features)
    read.square().sum().backward()
    assert read.isfinite().all()
    assert memory.items.grad.isfinite().all()
    torch.testing.assert_close(read.double(), reference_read(memory, features), atol=1e-5, rtol=0)


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
        exponentials = [math.exp(cosine(query, item) / 0.5) for item in memory.items.tolist()]
        w = [e / sum(exponentials) for e in exponentials]
        shrunk = [max(x - shrink, 0) * x / (abs(x - shrink) + 1e-12) for x in w]
        expected = [x / max(sum(shrunk), 1e-12) for x in shrunk]
        kept += sum(x > 0 for x in expected)
        np.testing.assert_allclose(row.tolist(), expected, atol=1e-9)
    assert 0 < kept < weights.numel()


def test_the_last_item_goes_down_the_ramp_also_where_weights_are_renormalised() -> None:
    """Above 1/N all may drop: on either side of the ramp's end reads must not jump from a whole item to none."""
    memory = BlockMemory((2, 1, 1), (1, 1, 1), 20, renormalize=True, drop_below=5.0, drop_width=1e-3).double()
    with torch.no_grad():
        memory.items.zero_()
        memory.items[:, 1] = 1.0
        memory.items[0] = torch.tensor([1.0, 0.0])

    def weight(target: float) -> float:
        """Weight of item 0 where its softmax times N / 5 has this logarithm: exp(s) / (exp(s) + 19)."""
        share = 5 / 20 * math.exp(target)
        memory.similarity, query = "inner_product", math.log(19 * share / (1 - share))
        return float(memory.address(torch.tensor([query, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1))[0, 0, 0])

    assert weight(1e-4) == pytest.approx(1.0)
    for part in (0.25, 0.5, 0.75):
        assert weight(-1e-3 * part) == pytest.approx(1 - part, abs=1e-6)
    assert weight(-1.01e-3) == 0


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


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_gradients(renormalize, similarity) -> None:
    torch.manual_seed(1)
    memory = BlockMemory((2, 4, 4), (2, 2, 2), 6, 0.5, renormalize, similarity=similarity).double()
    features = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert away_from_step(memory, features)

    def read(features: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(memory, {"items": items}, (features,))

    assert torch.autograd.gradcheck(read, (features, memory.items))


def test_inference_follows_every_change_of_the_items() -> None:
    torch.manual_seed(0)
    memory = BlockMemory((4, 8, 8), (2, 2, 1), 20).eval()
    features = torch.randn(2, 4, 8, 8)

    def check() -> None:
        with torch.no_grad():
            read = memory(features)
        torch.testing.assert_close(read.double(), reference_read(memory, features), atol=1e-5, rtol=0)

    check()
    with torch.no_grad():
        memory.items[:10] *= 3
    check()
    memory.load_state_dict(BlockMemory((4, 8, 8), (2, 2, 1), 20).state_dict())
    check()
    memory.load_state_dict({"items": torch.randn(20, 64)}, assign=True)
    check()
    optimizer = torch.optim.Adam(memory.parameters(), lr=0.5, fused=True)
    memory(features).square().sum().backward()
    optimizer.step()
    check()
    memory = copy.deepcopy(memory)
    check()


def test_inference_does_not_normalise_the_items_again(monkeypatch) -> None:
    memory = BlockMemory((4, 8, 8), (2, 2, 1), 20).eval()
    features = torch.randn(2, 4, 8, 8)
    norms_of = []
    vector_norm = torch.linalg.vector_norm
    monkeypatch.setattr(
        torch.linalg, "vector_norm", lambda x, **kwargs: norms_of.append(x.shape) or vector_norm(x, **kwargs)
    )
    with torch.no_grad():
        first, second = memory(features), memory(features)
    assert norms_of.count(memory.items.shape) == 1
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"division_rates": (3, 2, 1)}, ["(3, 2, 1)", "height 8", "width 8", "channels 4"]),
        ({"division_rates": (2, 2, 3)}, ["(2, 2, 3)", "channels 4"]),
        ({"division_rates": (0, 2, 1)}, ["at least 1"]),
        ({"num_items": 0}, ["num_items", "at least 1", "got 0"]),
        ({"temperature": 0.0}, ["temperature", "at least 0.02"]),
        ({"temperature": -1.0}, ["temperature", "at least 0.02"]),
        ({"drop_width": -1.0}, ["drop_width", "not negative"]),
        ({"drop_below": -1.0}, ["drop_below", "not negative"]),
        ({"similarity": "dot"}, ["cosine", "inner_product", "dot"]),
        ({"init": "ones"}, ["normal", "uniform", "ones"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    good = {"feature_shape": (4, 8, 8), "division_rates": (2, 2, 1), "num_items": 5}
    with pytest.raises(ValueError, match=r".") as error:
        BlockMemory(**{**good, **arguments})
    assert all(word in str(error.value) for word in words)


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8, 8\).*4, 8, 16"):
        BlockMemory((4, 8, 8), (2, 2, 1), 5)(torch.randn(1, 4, 8, 16))

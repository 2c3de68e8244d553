# SPDX-License-Identifier: Apache-2.0

"""Block memory, score and map on whatever numbers may come, and pixels that are no numbers."""

import math

import pytest
import torch
from anomalib.data import ImageBatch
from conftest import SMALL, make_model, make_restoration
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_daad import MemAe, Mnad
from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.components.distance import sample_distance
from anomalib_daad.components.error_map import ErrorMap
from anomalib_daad.components.finite_input import refuse_not_finite
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.components.gaussian_blur import GaussianBlur
from anomalib_daad.models.memae.torch_model import mean_square

MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
FLOATS = st.floats(-1e6, 1e6, width=32)
NOT_FINITE = [math.nan, math.inf, -math.inf]


@st.composite
def memories(draw) -> tuple[BlockMemory, torch.Tensor]:
    """A memory of any shape with items of any scale, some of them zero or all alike, and features for it."""
    rates = [draw(st.integers(1, 4)) for _ in range(3)]
    height, width, channels = (rate * draw(st.integers(1, 3)) for rate in rates)
    memory = BlockMemory(
        (channels, height, width),
        tuple(rates),
        num_items=draw(st.integers(1, 12)),
        temperature=draw(st.sampled_from([0.02, 0.1, 1.0, 10.0])),
        renormalize=draw(st.booleans()),
        drop_width=draw(st.sampled_from([0.0, 1e-3, 1.0])),
        similarity=draw(st.sampled_from(["cosine", "inner_product"])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    items = torch.randn(memory.items.shape, generator=generator) * 10.0 ** draw(st.integers(-15, 15))
    if draw(st.booleans()):
        items = items[:1].expand_as(items).clone()
    items[: draw(st.integers(0, len(items)))] = 0
    memory.items.data = items
    features = torch.randn(2, channels, height, width, generator=generator) * 10.0 ** draw(st.integers(-15, 15))
    features[draw(st.integers(0, 2)) :] = 0
    return memory, features


@MANY
@given(memories())
def test_weights_of_the_memory(drawn) -> None:
    memory, features = drawn
    weights = memory.address(features)
    count = len(memory.items)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights.sum(-1) <= 1 + 1e-4).all()
    assert (weights.amax(-1) > 0).all()  # the largest weight is at least 1/N, and never dropped
    if not memory.drop_width and not memory.renormalize:
        kept = weights[weights > 0]
        assert (kept * count >= 1 - 1e-4).all()
    if memory.renormalize:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    is_zero = (memory.divide(features) == 0).all(-1)
    equal = torch.full((count,), 1 / count)
    for row in weights[is_zero]:  # a zero query is equally far from all
        torch.testing.assert_close(row, equal)


@MANY
@given(memories())
def test_reads_of_the_memory(drawn) -> None:
    memory, features = drawn
    read = memory(features)
    assert read.isfinite().all()
    bound = float(memory.items.abs().max())
    assert float(read.abs().max()) <= bound * (1 + 1e-3)  # weights of at most one in sum
    order = [1, 0]
    torch.testing.assert_close(memory(features[order]), read[order], rtol=1e-4, atol=bound * 1e-4)
    torch.testing.assert_close(memory.assemble(memory.divide(features)), features, rtol=0, atol=0)


@MANY
@given(
    st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8),
    st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_scores_are_finite_and_never_fall_where_a_part_grows(calibration, parts, gamma) -> None:
    score = FusedScore(gamma)
    score.calibrate(*torch.tensor(calibration).T)
    reconstruction, alignment = torch.tensor(parts).T
    scores = score(reconstruction, alignment)
    assert scores.isfinite().all()
    more = reconstruction + reconstruction.abs() + 1
    assert (score(more, alignment) >= scores).all()
    assert (score(more, None) >= score(reconstruction, None)).all()


@MANY
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(-15, 15),
    st.sampled_from([sample_distance, mean_square]),
)
def test_distances(batch, height, width, exponent, distance) -> None:
    generator = torch.Generator().manual_seed(height * width)
    first, second = torch.randn(2, batch, 3, height, width, generator=generator) * 10.0**exponent
    found = distance(first, second)
    difference = (first.double() - second.double()).flatten(1)
    expected = difference.norm(dim=1) if distance is sample_distance else difference.square().mean(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-35)
    assert torch.equal(distance(first, first), torch.zeros(batch))


@MANY
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.3, 1.0, 3.0]))
def test_maps_are_means_of_errors(height, width, sigma) -> None:
    generator = torch.Generator().manual_seed(height * width)
    images, reconstructions = torch.randn(2, 2, 3, height, width, generator=generator)
    error = (images - reconstructions).square().mean(1, keepdim=True)
    for found in (ErrorMap()(images, reconstructions), GaussianBlur(sigma)(error)):
        assert found.shape == error.shape
        assert (found >= error.amin() - 1e-5).all()
        assert (found <= error.amax() + 1e-5).all()


def system(name: str):
    """Model in evaluation mode, scaled and with thresholds as after a validation."""
    arguments = {key: value for key, value in SMALL.items() if key != "division_rates"}
    module = {
        "Mnad": lambda: Mnad(**arguments),
        "MemAe": lambda: MemAe(**arguments),
        "DAAD+": make_model,
        "DAAD": lambda: make_model(adversarial=False),
        "DaadRestoration": make_restoration,
    }[name]()
    with torch.no_grad():
        images = torch.rand(20, 3, *module.model.image_size) * 2 - 1
        module.model.score.calibrate(*module.model.eval().scores(images))
    thresholds = {"_image_threshold": 3.0, "_pixel_threshold": 3.0}
    ranges = {"image_min": 0.0, "image_max": 6.0, "pixel_min": 0.0, "pixel_max": 4.0}
    for buffer, value in {**thresholds, **ranges}.items():
        getattr(module.post_processor, buffer).fill_(value)
    return module.eval()


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["DAAD+", "DAAD", "Mnad", "MemAe", "DaadRestoration"])
def test_an_image_that_is_not_finite_is_anomalous_and_the_others_keep_their_scores(name, value) -> None:
    module = system(name)
    images = torch.rand(3, 3, 32, 32)
    expected = module(images)
    images[1, 2, 5, 7] = value
    found = module(images)
    assert found.pred_score[1] == 1
    assert found.pred_label[1]
    assert found.pred_mask[1].any()
    others = [0, 2]
    assert not found.pred_label[others].any()
    torch.testing.assert_close(found.pred_score[others], expected.pred_score[others])
    assert not found.anomaly_map.isnan().any()
    raw = module.model(module.pre_processor(images))
    assert raw.pred_score[1] == math.inf
    assert raw.pred_score[others].isfinite().all()


@pytest.mark.parametrize("size", [1e4, 1e18, 1e30, 3e38])
def test_a_huge_pixel_is_anomalous(size) -> None:
    for name in ("DAAD+", "Mnad", "MemAe", "DaadRestoration"):
        images = torch.rand(1, 3, 32, 32)
        images[0, 1, 3, 3] = size
        found = system(name)(images)
        assert found.pred_label.all()
        assert not found.pred_score.isnan().any()


def test_infinities_that_cancel_are_refused_and_huge_pixels_are_not() -> None:
    images = torch.zeros(3, 3, 8, 8)
    images[1, :, 0, 0] = torch.finfo(torch.float32).max
    batch = ImageBatch(image=images, image_path=["0.png", "1.png", "2.png"])
    refuse_not_finite(batch)
    images[2, 0, 0], images[2, 0, 1] = torch.inf, -torch.inf
    with pytest.raises(ValueError, match=r"The image 2\.png has pixels that are NaN or infinite"):
        refuse_not_finite(batch)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("split", ["train", "test"])  # here the validation images are those of the test
def test_training_and_validation_refuse_it(make_datamodule, make_engine, monkeypatch, split, value) -> None:
    """One image on the disk reads as not finite: the sentence names it."""
    from anomalib.data.datasets.base import image as module

    read = module.read_image

    def read_image(path, as_tensor):
        image = read(path, as_tensor=as_tensor)
        if str(path).endswith(f"{split}/good/003.png"):
            image[0, 4, 4] = value
        return image

    monkeypatch.setattr(module, "read_image", read_image)
    datamodule = make_datamodule()
    with pytest.raises(ValueError, match=rf"{split}/good/003.png has pixels that are NaN or infinite"):
        make_engine(max_epochs=1).fit(make_model(), datamodule=datamodule)

# SPDX-License-Identifier: Apache-2.0

"""The comparison: its measures against independent ones, its models and data, its report, and what stopping does."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import openvino
import pytest
import safetensors.torch
import timm
import torch
import yaml
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.post_processing import PostProcessor
from browser import open_in_browser
from conftest import draw_part
from matplotlib.text import Text
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, roc_auc_score, roc_curve
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_daad.commands.command_line import plain_options
from anomalib_daad.commands.compare import compare_models, cost, trial
from anomalib_daad.commands.compare.advice import advise, lead
from anomalib_daad.commands.compare.charts import draw_cost, draw_histograms, draw_roc
from anomalib_daad.commands.compare.compare_models import compare
from anomalib_daad.commands.compare.contestant import Contestant
from anomalib_daad.commands.compare.data import ComparedData, find_data
from anomalib_daad.commands.compare.finding import Finding
from anomalib_daad.commands.compare.gallery import choose
from anomalib_daad.commands.compare.measures import (
    PixelCounts,
    auroc,
    false_positives_at_recall,
    interval,
    measure_images,
    on_resample,
    resample,
)
from anomalib_daad.commands.compare.progress import Progress
from anomalib_daad.commands.compare.trained_models import load
from anomalib_daad.commands.shared.model_picture import fit, normalise, seen_share
from anomalib_daad.commands.shared.output_folder import write_text
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.data import ascii_links

HOSTILE = '<x>&"y'
SMALL = """
model:
  class_path: Daad
  init_args: {division_rates: [2, 2, 1], num_items: 10, base_channels: 4}
trainer: {max_steps: 6, precision: 32-true}
data: {class_path: MVTecAD, init_args: {train_batch_size: 4}}
"""


def scored(count: int, seed: int, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    return labels, random.normal(apart * labels, 1.0).round(1)  # rounded, so that there are ties


# Measures.


@pytest.mark.parametrize("seed", range(5))
def test_image_measures_agree_with_their_definitions(seed) -> None:
    labels, scores = scored(60, seed)
    threshold = 0.4
    measures = measure_images(labels, scores, threshold)
    pairs = [(bad > good) + 0.5 * (bad == good) for bad in scores[labels] for good in scores[~labels]]
    assert measures["auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    found = sum(score > threshold for score in scores[labels])
    alarms = sum(score > threshold for score in scores[~labels])
    assert measures["f1"] == pytest.approx(2 * found / (labels.sum() + found + alarms), abs=1e-12)
    rates = [(np.mean(scores[labels] >= limit), np.mean(scores[~labels] >= limit)) for limit in np.unique(scores)]
    assert measures["fpr95"] == pytest.approx(min(alarm for recall, alarm in rates if recall >= 0.95), abs=1e-12)
    assert measures["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert measures["f1"] == pytest.approx(f1_score(labels, scores > threshold), abs=1e-12)
    alarm_rates, recalls, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert measures["fpr95"] == pytest.approx(alarm_rates[recalls >= 0.95].min(), abs=1e-12)
    assert false_positives_at_recall(labels, scores, recall=0.5) <= measures["fpr95"]
    assert false_positives_at_recall(labels, scores, recall=1.0) >= measures["fpr95"]


def test_what_cannot_be_measured_is_none() -> None:
    assert measure_images(np.zeros(3, bool), np.arange(3.0), 1.0) == {"auroc": None, "f1": None, "fpr95": None}
    labels, scores = scored(9, 0)
    assert measure_images(labels, scores, None)["f1"] is None
    assert interval(labels, lambda _: None) is None


def draw_maps(seed: int, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Maps with ties, more of them the fewer the digits, and masks of one region, of two, and of none."""
    random = np.random.default_rng(seed)
    masks = np.zeros((5, 16, 16), bool)
    masks[0, 2:6, 2:6] = masks[1, 1:4, 1:9] = masks[1, 10:15, 10:12] = masks[2, 8:, 8:] = True
    return (random.random(masks.shape) + 0.4 * masks).round(digits).astype(np.float32) * 7 - 1, masks


def pro_by_definition(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """Sweep all thresholds: mean overlap of the regions and false-positive rate; area by trapezoids up to the limit."""
    regions = []
    for index, mask in enumerate(masks):
        count, numbered = cv2.connectedComponents(mask.astype(np.uint8))
        regions += [(index, numbered == number) for number in range(1, count)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        above = maps >= threshold
        overlap = np.mean([above[index][region].mean() for index, region in regions])
        points.append((above[~masks].mean(), overlap))
    area = 0.0
    for (x_0, y_0), (x_1, y_1) in pairwise(points):
        if x_0 >= limit:
            break
        end = min(x_1, limit)
        height = y_1 if x_1 == x_0 else y_0 + (y_1 - y_0) * (end - x_0) / (x_1 - x_0)
        area += (end - x_0) * (y_0 + height) / 2
    return area / limit


@pytest.mark.parametrize("digits", [0, 1, 2, 6])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_measures_agree_with_their_definitions(seed, digits) -> None:
    maps, masks = draw_maps(seed, digits)
    measured = measure_pixels(torch.from_numpy(maps)[:, None], torch.from_numpy(masks))
    assert measured["aupro"] == pytest.approx(pro_by_definition(maps, masks), abs=1e-6)
    good, bad = maps[~masks], maps[masks]
    wins = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
    assert measured["auroc_pixel"] == pytest.approx(wins, abs=1e-6)
    assert measured["auroc_pixel"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_counts_of_pixels_stand_for_the_pixels(seed, digits) -> None:
    maps, masks = draw_maps(seed, digits)
    counts = PixelCounts(maps, masks, [cv2.connectedComponents(mask.astype(np.uint8))[1] for mask in masks])
    for images in (np.arange(5), np.array([1, 1, 3, 0, 4])):
        assert counts.auroc(images) == pytest.approx(
            roc_auc_score(masks[images].ravel(), maps[images].ravel()), abs=1e-6
        )
        assert counts.aupro(images) == pytest.approx(pro_by_definition(maps[images], masks[images]), abs=1e-6)
    assert counts.auroc(np.array([3, 4])) is None
    assert counts.aupro(np.array([3, 4])) is None


def test_intervals_cover_the_truth_and_narrow() -> None:
    """Of scores whose AUROC is known, about 95 of 100 intervals must hold it; more images, a narrower interval."""
    truth = 0.760  # of unit normals one standard deviation apart: Phi(1 / sqrt(2))
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2 == 0
    held, widths = 0, []
    for _ in range(60):
        scores = random.normal(labels, 1.0)
        low, high = interval(labels, on_resample(auroc, labels, scores), 200)
        held += low <= truth <= high
        widths.append(high - low)
    assert 51 <= held <= 60
    many = np.arange(1200) % 2 == 0
    scores = random.normal(many, 1.0)
    low, high = interval(many, on_resample(auroc, many, scores), 200)
    assert high - low < 0.5 * np.mean(widths)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_agree_with_other_implementations(seed) -> None:
    """On the same draws with scikit-learn's AUROC and sorted values, and with scipy's bootstrap on draws of its own."""
    labels, scores = scored(45, seed)
    drawn: list[np.ndarray] = []

    def note(images: np.ndarray) -> float | None:
        drawn.append(images)
        return auroc(labels[images], scores[images])

    low, high = interval(labels, note, 300)
    values = sorted(roc_auc_score(labels[images], scores[images]) for images in drawn)
    for end, share in ((low, 0.025), (high, 0.975)):
        place, rest = divmod(share * 299, 1)
        below, above = values[int(place)], values[int(place) + 1]
        assert end == pytest.approx(below + rest * (above - below), abs=1e-12)

    def share_in_order(bad: np.ndarray, good: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        pairs = np.sign(bad[..., :, None] - good[..., None, :])
        return (pairs.mean(axis=(-1, -2)) + 1) / 2

    known = bootstrap(
        (scores[labels], scores[~labels]), share_in_order, vectorized=True, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    assert interval(labels, on_resample(auroc, labels, scores), 4000) == pytest.approx(tuple(known), abs=0.01)


def test_resamples_of_two_models_are_the_same() -> None:
    labels, _ = scored(30, 0)
    first, second = (resample(labels, lambda images: float(images.sum()), 5) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert len(set(first)) > 1
    kinds = resample(labels, lambda images: float(labels[images].sum()), 20)
    assert set(kinds) == {labels.sum()}


# Which model to pick.


def make_finding(name: str, labels: np.ndarray, scores: np.ndarray, **facts) -> Finding:
    data = ComparedData("part", "MVTecAD", {})
    made = trial.Trial(Contestant(name, "Daad"), data, 32, 1, 1, 0, "cpu", True, None, None)
    images = [f"{'bad' if label else 'good'}/{index}.png" for index, label in enumerate(labels)]
    facts = {"threshold": 0.5, "train_seconds": 60.0, "train_images": 9, **facts}
    measures = {**measure_images(labels, scores, 0.5), "auroc_pixel": None, "aupro": None}
    return Finding(made, Path(), images, labels, scores, facts, measures, dict.fromkeys(measures))


def test_the_faster_of_two_equals_is_advised() -> None:
    labels, scores = scored(90, 0, apart=2)
    near = scores + np.random.default_rng(1).normal(0, 0.02, 90)
    findings = {"slow": [make_finding("slow", labels, scores)], "fast": [make_finding("fast", labels, near)]}
    costs = {"slow": {"openvino_ms": 100.0}, "fast": {"openvino_ms": 10.0}}
    advice = advise(findings, costs)
    assert advice.choice == "fast"
    assert "10 times as fast as slow" in " ".join(advice.sentences)
    limit = 0.5
    found, alarms = (near[labels] > limit).sum(), (near[~labels] > limit).sum()
    assert advice.verdict == (
        f"fast finds {found} of 30 defects and rejects {alarms} of 60 good parts; it is 10 times as fast as slow."
    )
    assert advise(dict(reversed(findings.items())), costs).choice == "fast"


def test_a_clearly_better_model_is_advised_whatever_it_costs() -> None:
    labels, scores = scored(90, 0, apart=4)
    noise = np.random.default_rng(1).normal(size=90)
    findings = {"slow": [make_finding("slow", labels, scores)], "fast": [make_finding("fast", labels, noise)]}
    low, high = lead(findings["slow"], findings["fast"])
    assert 0 < low < high
    assert lead(findings["fast"], findings["slow"]) == pytest.approx((-high, -low), abs=1e-9)
    advice = advise(findings, {"slow": {"torch_ms": 100.0}, "fast": {"torch_ms": 10.0}})
    assert advice.choice == "slow"
    assert advice.verdict.endswith("good parts; it is 10 times as slow as fast.")
    assert "too few" not in " ".join(advice.sentences)


def test_few_images_do_not_make_two_models_equal() -> None:
    labels = np.arange(9) < 5
    right = labels + np.arange(9) / 100
    wrong = right.copy()
    wrong[0] = -1.0  # below all good ones
    findings = {"slow": [make_finding("slow", labels, right)], "fast": [make_finding("fast", labels, wrong)]}
    advice = advise(findings, {"slow": {"torch_ms": 100.0}, "fast": {"torch_ms": 10.0}})
    assert advice.choice == "slow"
    assert "9 test images are too few to be sure that slow is better than fast" in " ".join(advice.sentences)


def test_the_verdict_counts_all_data_sets_and_needs_a_threshold() -> None:
    labels, scores = scored(90, 0, apart=2)
    finding = make_finding("one", labels, scores)
    found, alarms = (scores[labels] > 0.5).sum(), (scores[~labels] > 0.5).sum()
    told = f"one finds {2 * found} of 60 defects and rejects {2 * alarms} of 120 good parts, over all 2 data sets."
    assert advise({"one": [finding, finding]}, {}).verdict == told
    without = make_finding("one", labels, scores, threshold=None)
    assert advise({"one": [finding, without]}, {}).verdict.startswith("one tells good from defective best, but has no")


@pytest.mark.parametrize("is_second_better", [True, False])
def test_a_mean_does_not_hide_that_a_model_fails_somewhere(is_second_better) -> None:
    labels, scores = scored(90, 0, apart=4)
    good, bad = make_finding("best", labels, scores), make_finding("best", labels, -scores)
    bad = replace(bad, trial=replace(bad.trial, data=replace(bad.trial.data, name="screw")))
    weaker = scored(90, 0, apart=1.0)[1]
    other = make_finding("other", labels, weaker if is_second_better else -scores)
    findings = {"best": [good] * 5 + [bad], "other": [make_finding("other", labels, weaker)] * 5 + [other]}
    told = " ".join(advise(findings, {}).sentences)
    assert "Pick best" in told
    assert "But on screw it does not tell good from defective" in told
    assert ("or everywhere, take other" in told) == is_second_better
    assert ("no model here is of use there" in told) != is_second_better


def test_without_defective_images_nothing_is_advised() -> None:
    finding = make_finding("one", np.zeros(9, bool), np.arange(9.0))
    advice = advise({"one": [finding]}, {"one": {"torch_ms": 1.0}})
    assert advice.choice is None
    assert "Add some defective images" in advice.sentences[0]
    assert advice.verdict == "one rejects 8 of 9 good parts; nothing here says which model finds defects."


@pytest.mark.parametrize(("count", "is_hint"), [(9, True), (90, False)])
def test_advice_on_few_images_is_a_hint(count, is_hint) -> None:
    told = " ".join(advise({"one": [make_finding("one", *scored(count, 0, apart=9))]}, {}).sentences)
    assert ("test images of a kind all this is a first hint" in told) == is_hint


def test_the_gallery_shows_the_worst_first() -> None:
    labels = np.array([True, True, True, False, False, False])
    scores = np.array([0.9, 0.1, 0.5, 0.2, 0.8, 0.3])
    one, other = make_finding("one", labels, scores), make_finding("other", labels, scores[::-1].copy())
    assert choose(one, worst=2) == ([1, 2], [4, 5])
    assert choose(other, worst=1) == ([2], [5])  # its scores: 0.3 0.8 0.2, 0.5 0.1 0.9


@pytest.mark.parametrize(
    ("steps", "share"),
    [
        ([Resize((64, 64)), Normalize([0.5], [0.5])], (1.0, 1.0)),
        ([Resize((64, 32)), CenterCrop((32, 24)), Normalize([0.5], [0.5])], (0.5, 0.75)),
        ([Resize(64), CenterCrop(48)], (0.75, 0.75)),
        ([], (1.0, 1.0)),
    ],
)
def test_a_cropped_map_lies_where_it_was_seen(steps, share) -> None:
    model = SimpleNamespace(pre_processor=SimpleNamespace(transform=Compose(steps) if steps else None))
    assert seen_share(model) == share
    shown = fit(np.ones((5, 5)), np.zeros((80, 40, 3)), share)
    assert shown.shape == (80, 40)
    rows, columns = np.nonzero(shown)
    height, width = 80 * share[0], 40 * share[1]
    assert (rows.min(), rows.max() + 1) == ((80 - height) / 2, (80 + height) / 2)
    assert (columns.min(), columns.max() + 1) == ((40 - width) / 2, (40 + width) / 2)


@pytest.mark.parametrize("threshold", [3.0, float("nan")])
def test_maps_are_scaled_by_the_threshold_alone(threshold) -> None:
    """A defect does not darken what is shown beside it: a good map's values do not depend on the others."""
    good, bad = np.full((1, 4, 4), 2.0, np.float32), np.full((1, 4, 4), 9.0, np.float32)
    post_processor = PostProcessor()
    model = SimpleNamespace(post_processor=post_processor)
    assert normalise(model, np.concatenate([good, bad])).max() == 0.5  # nothing is calibrated: nothing is beyond
    for name, value in (("_pixel_threshold", threshold), ("pixel_min", 1.0), ("pixel_max", 6.0)):
        getattr(post_processor, name).fill_(value)
    middle = 3.0 if threshold == 3.0 else 3.5
    alone, together = normalise(model, good), normalise(model, np.concatenate([good, bad]))
    np.testing.assert_allclose(alone, (2.0 - middle) / 5 + 0.5, atol=1e-6)
    np.testing.assert_array_equal(alone[0], together[0])
    assert together[1].min() == 1.0


# Models and data.


@pytest.mark.parametrize("name", ["Padim", "padim", "PaDiM", "reverse_distillation", "Daad", "DaadRestoration", "Mnad"])
def test_models_are_found_by_name(name) -> None:
    assert Contestant.parse(name).class_path.lower() == name.replace("_", "").lower()


def test_an_unknown_model_gets_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"no model Patchcor.*Patchcore"):
        Contestant.parse("Patchcor")


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("configs/daad*.yaml")), ids=lambda path: path.stem
)
def test_configurations_take_part(path) -> None:
    contestant = Contestant.parse(str(path))
    assert contestant.trainer.keys() <= {"max_epochs", "max_steps", "precision"}
    with torch.device("meta"):
        model = contestant.build(contestant.image_size, seed=3)
    written = yaml.safe_load(path.read_text())["model"]["init_args"]["image_size"]
    assert list(model.hparams["image_size"]) == written
    assert model.hparams["seed"] == 3
    assert type(model.post_processor) is PostProcessor  # one rule for the thresholds of all models


def test_a_size_that_a_model_does_not_take_is_refused(tmp_path) -> None:
    (tmp_path / "sized.yaml").write_text("model: {class_path: Padim, init_args: {image_size: [64, 64]}}")
    contestant = Contestant.parse(str(tmp_path / "sized.yaml"))
    with pytest.raises(ValueError, match=r"sized: Padim has no argument image_size"):
        contestant.build(64, seed=0)


def test_images_that_are_not_square_take_no_part(tmp_path) -> None:
    (tmp_path / "wide.yaml").write_text("model: {class_path: Daad, init_args: {image_size: [128, 256]}}")
    with pytest.raises(ValueError, match=r"wide.yaml: .*square.*\[128, 256\]"):
        Contestant.parse(str(tmp_path / "wide.yaml"))


@pytest.mark.parametrize("text", ["", "model: 3", "model: {init_args: {}}", "a: [", "- 1"])
def test_a_file_that_is_no_configuration(tmp_path, text) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"bad.yaml is not a configuration"):
        Contestant.parse(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("trainer", "kept"),
    [
        ("{max_steps: 3, accelerator: cpu, enable_progress_bar: false}", {"max_steps": 3}),
        ("{gradient_clip_val: 0.5}", {"gradient_clip_val": 0.5}),
        ("{callbacks: [EarlyStopping]}", None),
    ],
)
def test_a_recipe_is_kept_whole_or_refused(trainer, kept, tmp_path) -> None:
    path = tmp_path / "clipped.yaml"
    path.write_text(f"model: {{class_path: EfficientAd}}\ntrainer: {trainer}\n")
    if kept is None:
        with pytest.raises(ValueError, match=r"knows no trainer\.callbacks"):
            Contestant.parse(str(path))
        return
    contestant = Contestant.parse(str(path))
    assert contestant.trainer == kept
    assert contestant.batch_size == 1  # EfficientAd takes no other


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.999, 1.0), (0.5, 0.6)])
def test_no_chart_goes_beyond_the_best_there_is(values) -> None:
    names = ("first", "second")
    cost = draw_cost(dict(zip(names, values, strict=True)), {name: {"torch_ms": 3.0} for name in names})
    labels, scores = scored(60, 0)
    roc = draw_roc([make_finding("one", labels, scores)])
    cost_axes, roc_axes = cost.figure.axes[0], roc.figure.axes[0]
    assert max(cost_axes.get_yticks()) == 1
    assert cost_axes.get_ylim()[0] < min(values)
    assert (roc_axes.get_xlim(), roc_axes.get_ylim()) == ((0, 1), (0, 1))
    assert not any(line.get_clip_on() for axes in (cost_axes, roc_axes) for line in axes.lines if line.get_lw() == 2)


def test_bars_of_the_two_kinds_lie_side_by_side() -> None:
    labels, scores = scored(60, 0)
    (axes,) = draw_histograms([make_finding("one", labels, scores)]).figure.axes
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches if bar.get_height())
    assert len(spans) > 20
    assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(spans))
    assert all(bar.get_alpha() is None for bar in axes.patches)
    assert sum(bar.get_height() for bar in axes.patches) == 60
    assert axes.get_legend() is None  # it lies beside the bars, in the figure


@pytest.mark.parametrize("latencies", [(7.0, 7.2), (3.0, 900.0), (0.4, 0.41)])
def test_the_chart_of_costs_has_numbers_on_its_axis(latencies) -> None:
    names = ("first", "second")
    costs = {name: {"openvino_ms": value} for name, value in zip(names, latencies, strict=True)}
    picture = draw_cost(dict.fromkeys(names, 0.9), costs)
    axes = picture.figure.axes[0]
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2
    assert low < min(latencies)
    assert high > max(latencies)


def test_names_in_the_chart_of_costs_do_not_overlap() -> None:
    values = {
        "first": (9.0, 1.0),
        "second": (9.1, 1.0),
        "third": (9.2, 1.0),
        "fourth": (9.1, 0.999),
        "far": (90.0, 1.0),
    }
    means = {name: mean for name, (_, mean) in values.items()}
    picture = draw_cost(means, {name: {"torch_ms": latency} for name, (latency, _) in values.items()})
    picture.figure.draw_without_rendering()
    (axes,) = picture.figure.axes
    boxes = [Text.get_window_extent(name) for name in axes.texts]  # without the lines to the points
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(axes.bbox.contains(*point) for box in boxes for point in box.corners())
    for name, (milliseconds, value) in values.items():
        x, y = axes.transData.transform((milliseconds, value))
        assert not any(box.contains(x, y) for box in boxes), name


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    network = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["Padim", "Patchcore"])
def test_backbone_weights_are_loaded(name, resnet_weights) -> None:
    model = Contestant.parse(name).build(64, 0, backbone="resnet18", backbone_weights=resnet_weights)
    (extractor,) = (module for module in model.modules() if isinstance(module, TimmFeatureExtractor))
    saved = safetensors.torch.load_file(resnet_weights)
    loaded = extractor.feature_extractor.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_backbone_weights_of_a_whole_network(tmp_path) -> None:
    network = timm.create_model("resnet18", pretrained=False)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "whole.safetensors")
    model = Contestant.parse("Padim").build(64, 0, backbone_weights=tmp_path / "whole.safetensors")
    (extractor,) = (module for module in model.modules() if isinstance(module, TimmFeatureExtractor))
    assert torch.equal(extractor.feature_extractor.conv1.weight, network.conv1.weight)


@pytest.mark.parametrize("name", ["Ganomaly", "Fastflow"])
def test_models_are_read_back_at_their_size(name, tmp_path) -> None:
    """Of these the size of the pre-processor is the network's, and checkpoints do not hold it."""
    data = ComparedData("part", "MVTecAD", {})
    made = trial.Trial(Contestant.parse(name), data, 64, 1, 1, 0, "cpu", False, None, None)
    model = made.build()
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(checkpoint | {"pytorch-lightning_version": "2.6.0"}, tmp_path / "model.ckpt")
    labels, scores = scored(9, 0)
    finding = replace(make_finding(name, labels, scores), trial=made, folder=tmp_path)
    read = load(finding)
    expected, loaded = (
        {key: value.nan_to_num() for key, value in it.state_dict().items()}
        for it in (model, read)  # no thresholds yet
    )
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(expected[key], loaded[key]) for key in expected)


def test_backbone_weights_that_do_not_fit(resnet_weights, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"does not fit the backbone of Patchcore, resnet34.*--backbone"):
        Contestant.parse("Patchcore").build(64, 0, backbone="resnet34", backbone_weights=resnet_weights)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Contestant.parse("Padim").build(64, 0, backbone_weights=tmp_path / "bad.safetensors")


def test_glass_keeps_the_weights_that_it_is_given(resnet_weights) -> None:
    """It trains its backbone where it is not told that it is pretrained."""
    model = Contestant.parse("Glass").build(64, 0, backbone="resnet18", backbone_weights=resnet_weights)
    assert model.pre_trained
    assert model.model.pre_trained
    extractor = model.model.forward_modules["feature_aggregator"]
    assert not any(feature.requires_grad for feature in extractor(torch.rand(1, 3, 64, 64)).values())


def test_a_size_that_is_one_number(monkeypatch) -> None:
    class Square:
        def __init__(self, image_size: int | None = None) -> None:
            self.given = image_size

    monkeypatch.setattr("anomalib.models.Ganomaly", Square)
    assert Contestant("square", "Ganomaly").build(64, 0).given == 64


def test_a_hub_out_of_reach_is_named(monkeypatch) -> None:
    def refuse(*_, **__) -> None:
        msg = "no route to the hub"
        raise OSError(msg)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match=r"no route to the hub.*--backbone-weights FILE or --no-pretrained"):
        Contestant.parse("Padim").build(64, 0)


def test_from_scratch_means_from_scratch(monkeypatch) -> None:
    def refuse(*_, pretrained: bool = False, **__):
        assert not pretrained
        raise InterruptedError

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match="Patchcore cannot be built: InterruptedError"):
        Contestant.parse("Patchcore").build(64, 0, pretrained=False)
    assert Contestant.parse("EfficientAd").batch_size == 1
    with pytest.raises(ValueError, match="EfficientAd is built on pretrained weights"):
        Contestant.parse("EfficientAd").build(64, 0, pretrained=False)


def draw_folder(root: Path, kinds: dict[str, int]) -> Path:
    """Images of mixed sizes and formats, of each kind so many."""
    random = np.random.default_rng(0)
    for kind, count in kinds.items():
        (root / kind).mkdir(parents=True)
        for index in range(count):
            image, _ = draw_part(random, defective=kind != "good")
            scale = (1, 1.5, 2)[index % 3]
            suffix = (".png", ".jpg", ".bmp")[index % 3]
            cv2.imwrite(str(root / kind / f"{index:03d}{suffix}"), cv2.resize(image, None, fx=scale, fy=scale))
    return root


def test_layouts_are_told_apart(data_root, tmp_path) -> None:
    assert [data.name for data in find_data(data_root)] == ["part"]
    assert find_data(data_root / "part") == find_data(data_root, ["part"])
    for named in (["part,other"], ["part", "other"]):
        with pytest.raises(ValueError, match=r"^There is no category other in .*; it has part\.$"):
            find_data(data_root, named)
    assert find_data(data_root, ["part,part"]) == find_data(data_root)
    own = draw_folder(tmp_path / "mine", {"good": 20, "scratched": 3, "dented": 2})
    (found,) = find_data(own)
    assert (found.class_path, found.arguments["abnormal_dir"]) == ("Folder", ["dented", "scratched"])
    datamodule = found.build(4, 4, 0)
    assert len(datamodule.train_data) == 16
    assert len(datamodule.test_data) == 9
    assert find_data(own, validation="synthetic")[0].arguments["val_split_mode"] == "synthetic"
    (tmp_path / "data.yaml").write_text(f"class_path: MVTecAD\ninit_args: {{root: {data_root}, category: part}}")
    (configured,) = find_data(tmp_path / "data.yaml")
    assert len(configured.build(4, 4, 0).train_data) == 12


def test_images_in_folders_below_count(tmp_path) -> None:
    """As anomalib's Folder reads them; a kind of defect that is left out without a word is worse than none."""
    own = draw_folder(tmp_path / "mine", {"good": 20, "scratch": 4})
    draw_folder(own / "broken", {"2024-01-08": 3, "2024-01-09/evening": 2})
    (found,) = find_data(own)
    assert found.arguments["abnormal_dir"] == ["broken", "scratch"]
    assert sum(int(item.gt_label) for item in found.build(4, 4, 0).test_data) == 9


def test_masks_of_a_folder(tmp_path) -> None:
    own = draw_folder(tmp_path / "mine", {"good": 6, "bad": 3})
    (own / "masks").mkdir()
    for path in (own / "bad").iterdir():
        cv2.imwrite(str(own / "masks" / f"{path.stem}.png"), np.full((48, 40), 255, np.uint8))
    batch = next(iter(find_data(own)[0].build(4, 16, 0).test_dataloader()))
    assert batch.gt_mask is not None
    (own / "masks" / "000.png").rename(own / "masks" / "x.png")
    with pytest.raises(ValueError, match=r"do not match .*: 000\.png has no mask \(3 images, 3 masks\)"):
        find_data(own)
    (own / "masks" / "x.png").unlink()
    with pytest.raises(ValueError, match=r"000\.png has no mask \(3 images, 2 masks\)"):
        find_data(own)
    (own / "masks" / "000_mask.png").write_bytes((own / "masks" / "001.png").read_bytes())
    assert "mask_dir" in find_data(own)[0].arguments
    (own / "masks" / "more.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"more\.png has no image"):
        find_data(own)


@pytest.mark.parametrize(("suffix", "quality"), [(".jpg", 90), (".JPEG", 50), (".webp", 60)])
def test_masks_that_their_format_smeared(tmp_path, suffix, quality) -> None:
    own = draw_folder(tmp_path / "mine", {"good": 6, "bad": 3})
    (own / "masks").mkdir()
    mask = cv2.circle(np.zeros((48, 40), np.uint8), (20, 20), 9, 255, -1)
    for path in (own / "bad").iterdir():
        cv2.imwrite(str(own / "masks" / f"{path.stem}.png"), mask)
    assert "mask_dir" in find_data(own)[0].arguments
    (own / "masks" / "001.png").unlink()
    flag = cv2.IMWRITE_WEBP_QUALITY if suffix == ".webp" else cv2.IMWRITE_JPEG_QUALITY
    cv2.imwrite(str(own / "masks" / f"001{suffix}"), mask, [flag, quality])
    with pytest.raises(ValueError, match=rf"001\{suffix} has \d+ gray values; .*two values, as PNG"):
        find_data(own)


@pytest.mark.parametrize(
    ("folder", "kind"), [("Prüfung 检测", "scratched"), ("mine", "verkratzt_ä"), ("Jürgen é", "キズ")]
)
def test_any_letters_in_a_path(tmp_path, folder, kind) -> None:
    own = draw_folder(tmp_path / folder / "Teile", {"good": 6, kind: 3})
    (own / "masks").mkdir()
    for path in (own / kind).iterdir():
        (own / "masks" / f"{path.stem}.png").write_bytes(cv2.imencode(".png", np.full((48, 40), 255, np.uint8))[1])
    (found,) = find_data(own)
    datamodule = found.build(4, 16, 0)
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.gt_mask is not None
    assert {Path(path).parent.name for path in batch.image_path} == {"good", kind}
    assert all(Path(path).is_relative_to(own.resolve()) for path in batch.image_path)


@pytest.mark.parametrize("spelling", ["MVTecAD", "anomalib.data.MVTecAD"])
def test_a_configured_datamodule_keeps_what_its_file_leaves_out(data_root, tmp_path, spelling) -> None:
    """anomalib's own root and category, where the file names none; links, where it names a folder beyond ASCII."""
    (tmp_path / "data.yaml").write_text(f"class_path: {spelling}\ninit_args: {{category: part}}")
    (found,) = find_data(tmp_path / "data.yaml")
    assert found._in_ascii() == {}
    shutil.copytree(data_root, tmp_path / "däta")
    (tmp_path / "data.yaml").write_text(
        f"class_path: {spelling}\ninit_args: {{root: {tmp_path / 'däta'}, category: part}}"
    )
    (found,) = find_data(tmp_path / "data.yaml")
    assert len(found.build(4, 4, 0).train_data) == 12


def test_links_are_ascii_wherever_temporary_files_go(tmp_path, monkeypatch) -> None:
    (tmp_path / "tmpä").mkdir()
    (tmp_path / "ö").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmpä"))
    monkeypatch.setattr(ascii_links, "_HOME", [])
    ascii_links._link.cache_clear()
    assert str(ascii_links.ascii_link(tmp_path / "ö")).isascii()
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no privilege")))
    with pytest.raises(ValueError, match=r"cannot be linked to: no privilege\. Move the images"):
        ascii_links.ascii_link(tmp_path / "ö" / "inside")
    ascii_links._link.cache_clear()


@pytest.mark.parametrize(("folder", "category"), [("Prüfung 检测", "part"), ("mine", "Mutter_ü"), ("é", "部品")])
def test_any_letters_in_a_category(data_root, tmp_path, folder, category) -> None:
    shutil.copytree(data_root / "part", tmp_path / folder / category)
    (found,) = find_data(tmp_path / folder)
    assert found.name == category
    datamodule = found.build(4, 4, 0)
    datamodule.prepare_data()  # as a trainer does once more
    assert len(datamodule.train_data) == 12


def test_masks_in_another_order_than_their_images(tmp_path) -> None:
    """Of 1_mask and 10_mask the second comes first; of 1 and 10 the first: anomalib pairs them by order."""
    for name in ("good/1.png", "bad/1.png", "bad/10.png", "masks/1_mask.png", "masks/10_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 8), 255, np.uint8))
    with pytest.raises(ValueError, match="do not stand in the same order"):
        find_data(tmp_path)


def test_masks_of_a_category(data_root, tmp_path) -> None:
    shutil.copytree(data_root / "part", tmp_path / "part")
    (tmp_path / "part/ground_truth/bar/002_mask.png").unlink()
    with pytest.raises(ValueError, match=r"002\.png has no mask \(6 images, 5 masks\)"):
        find_data(tmp_path)
    shutil.rmtree(tmp_path / "part/ground_truth")
    with pytest.raises(ValueError, match=r"000\.png has no mask \(6 images, 0 masks\)"):
        find_data(tmp_path)


def test_changed_data_are_other_data(tmp_path) -> None:
    own = draw_folder(tmp_path / "mine", {"good": 6, "bad": 3})
    before = find_data(own)
    assert find_data(own) == before
    shutil.copy(own / "good" / "000.png", own / "good" / "new.png")
    assert find_data(own) != before


def test_data_without_validation_images(data_root) -> None:
    (data,) = find_data(data_root, validation="none")
    with pytest.raises(ValueError, match="no validation images"):
        data.build(4, 4, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere", "There is no folder"),
        (lambda path: path, "neither CATEGORY/train/good nor a folder named good"),
        (lambda path: path / "data.yaml", "There is no configuration file"),
        (
            lambda path: (path / "x.yaml").write_text("a: 1") and path / "x.yaml",
            "not the configuration of a datamodule",
        ),
        (lambda path: (path / "x.yaml").write_text("class_path: Nothing") and path / "x.yaml", "has no datamodule Not"),
        (lambda path: (path / "a/train/good").mkdir(parents=True) or path, "There are no images in"),
    ],
)
def test_data_that_are_not_there(tmp_path, make, words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        find_data(make(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unknown_category(data_root) -> None:
    with pytest.raises(ValueError, match=r"no category nut.*it has part"):
        find_data(data_root, ["nut"])


def test_options_with_dashes() -> None:
    given = ["--models", "Daad,Padim", "--image-size", "64", "--no-pretrained", "--backbone-weights=a-b.safetensors"]
    assert plain_options(given, compare) == [
        *("--models", '["Daad,Padim"]', "--image_size", "64", "--pretrained=false"),
        "--backbone_weights=a-b.safetensors",
    ]


# The whole command.


@pytest.fixture(scope="module")
def _here() -> Iterator[None]:
    """Trials in this process: starting one takes longer than these do."""
    patch = pytest.MonkeyPatch()

    def run(made: trial.Trial, folder: Path) -> str | None:
        try:
            trial.run(made, folder)
        except Exception as error:
            return str(error).split("\n")[0]
        return None

    patch.setattr(compare_models, "_run", run)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def compared(data_root, tmp_path_factory, _here) -> Path:
    """Output of a comparison: a small Daad at a size of its own, PaDiM, a configuration that fails as it trains."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "small.yaml").write_text(
        SMALL.replace("{", "{image_size: [64, 64], connections: none, adversarial: false, ", 1)
    )
    (folder / "broken.yaml").write_text(SMALL.replace("32-true", "nonsense"))
    models = [f"{folder / 'small.yaml'},Padim", str(folder / "broken.yaml")]
    with pytest.raises(ValueError, match=r"1 of 3 models failed.*broken on part: .*nonsense"):
        compare(data_root, models, image_size=32, pretrained=False, seconds=0.2, output=folder / "out")
    return folder / "out"


def test_the_tables_hold_what_was_measured(compared) -> None:
    with (compared / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["small", "Padim"]
    written = json.loads((compared / "results.json").read_text())
    assert written["failed"].keys() == {"broken on part"}
    text = (compared / "report.md").read_text()
    for row in rows:
        (folder,) = compared.glob(f"models/part_{row['model']}_*")
        with (folder / "scores.csv").open() as file:
            scores = list(csv.DictReader(file))
        labels, values = ([float(score[key]) for score in scores] for key in ("label", "score"))
        assert float(row["auroc"]) == pytest.approx(roc_auc_score(labels, values), abs=1e-6)
        assert f"{float(row['auroc']):.3f}" in text
        assert float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"])
        assert (row["good_test_images"], row["defective_test_images"]) == ("5", "6")
        maps, masks = (np.load(folder / f"{name}.npy") for name in ("maps", "masks"))
        assert maps.shape[1:] == (int(row["image_size"]),) * 2
        assert float(row["auroc_pixel"]) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)
        assert float(row["aupro"]) == pytest.approx(pro_by_definition(maps, masks), abs=1e-3)
        assert min(float(row[key]) for key in ("torch_ms", "openvino_ms", "deployed_mb", "train_peak_mb")) > 0
        assert min(float(row[key]) for key in ("torch_images_per_second", "openvino_images_per_second")) > 0
        assert not (folder / "engine").exists()
    assert [row["image_size"] for row in rows] == ["64", "32"]
    assert "resized to 64 x 64 (small), 32 x 32 (Padim)" in text


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.words = ""

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_data(self, data) -> None:
        self.words += data


def test_the_page_says_it_all_and_asks_for_nothing(compared) -> None:
    text = (compared / "index.html").read_text(encoding="utf-8")
    page = Collector()
    page.feed(text)
    advice = json.loads((compared / "results.json").read_text())["advice"]
    assert all(sentence in page.words for sentence in advice["sentences"])
    assert advice["choice"] in {"small", "Padim"}
    assert "broken on part" in page.words
    assert page.words.count("what the model expected") == 4  # of the only model that rebuilds images
    assert advice["verdict"] in page.words
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in page.images)
    assert not re.search(r"https?:|url\(|@import|<script|<link", re.sub(r'src="data:[^"]*"', "", text))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(compared, tmp_path, width) -> None:
    console, asked, shown = open_in_browser(compared / "index.html", tmp_path, width)
    assert (console, asked) == ([], [])
    assert shown.shape[1] == width
    assert shown[: len(shown) // 4, -8:].min() > 200  # an empty margin: nothing is cut off at the right
    assert shown.std() > 10


def test_progress_is_told_while_a_model_trains(tmp_path, monkeypatch) -> None:
    note = tmp_path / "progress.txt"
    shown = []
    monkeypatch.setattr(compare_models.Console, "status", lambda *_: nullcontext(SimpleNamespace(update=shown.append)))
    monkeypatch.setattr(compare_models, "POLL", 0.05)
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('half'); time.sleep(0.5); sys.exit(3)"
    with (tmp_path / "log").open("w") as log:
        assert compare_models._follow([sys.executable, "-c", program, str(note)], log, note, "one [it]") == 3
    assert shown[-1] == r"one \[it]: half"


def test_an_interruption_ends_the_training(tmp_path, monkeypatch) -> None:
    started = []
    popen = subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[0]

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_models, "POLL", 0.05)
    monkeypatch.setattr(compare_models.subprocess, "Popen", start)
    monkeypatch.setattr(compare_models.Console, "status", lambda *_: nullcontext(SimpleNamespace(update=interrupt)))
    with (tmp_path / "log").open("w") as log, pytest.raises(KeyboardInterrupt):
        compare_models._follow([sys.executable, "-c", "import time; time.sleep(99)"], log, tmp_path / "none", "one")
    assert started[0].returncode == -signal.SIGKILL


def test_time_left() -> None:
    """Models take as long as they took elsewhere; new ones as long as all did on average."""
    durations = {"slow": [100.0, 200.0], "fast": [3.0]}
    assert compare_models._time_left(durations, ["slow", "fast", "new"]) == 150 + 3 + 101


def test_progress_counts_what_is_left(tmp_path, monkeypatch) -> None:
    """Of a training that goes on after 40 of 100 steps, at two seconds a step."""
    clock = iter([0.0, 0.0, 0.5, 20.0, 20.5])
    monkeypatch.setattr("anomalib_daad.commands.compare.progress.time.monotonic", lambda: next(clock))
    progress = Progress(tmp_path / "progress.txt", 100)
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=39))
    progress.on_train_start(trainer, None)
    progress.on_train_batch_end(trainer)
    assert not (tmp_path / "progress.txt").exists()
    trainer.fit_loop.total_batch_idx = 49
    for _ in range(2):
        progress.on_train_batch_end(trainer)
        assert (tmp_path / "progress.txt").read_text() == "50% trained, 100 s left"


def test_nothing_is_repeated(compared, data_root, monkeypatch) -> None:
    def refuse(*_, **__):
        msg = "nothing is to be run"
        raise AssertionError(msg)

    monkeypatch.setattr(compare_models, "_run", refuse)
    monkeypatch.setattr("anomalib_daad.commands.compare.report.measure_costs", refuse)
    before = json.loads((compared / "results.json").read_text())["results"]
    compare(
        data_root,
        [str(compared.parent / "small.yaml"), "Padim"],
        image_size=32,
        pretrained=False,
        seconds=0.2,
        output=compared,
    )
    assert json.loads((compared / "results.json").read_text())["results"] == before


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("kinds", [{"good": 20, "bad": 5}, {"good": 20}], ids=["good and bad", "only good"])
def test_a_folder_of_ones_own(tmp_path, kinds, monkeypatch) -> None:
    monkeypatch.setattr(trial, "_export", lambda *_: {"deployed_mb": None, "not_exported": "left out"})
    (tmp_path / "small.yaml").write_text(SMALL)
    own = draw_folder(tmp_path / HOSTILE, {HOSTILE if kind == "bad" else kind: count for kind, count in kinds.items()})
    compare(own, [str(tmp_path / "small.yaml")], image_size=32, seconds=0.1, output=tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert row["good_test_images"] == 4
    if "bad" in kinds:
        assert row["auroc"] is not None
        assert f"| {HOSTILE} |" in text
    else:
        assert row["auroc"] is None
        assert "nothing here says which model finds defects" in text
        assert "not measured" in text
    assert row["auroc_pixel"] is None
    assert row["torch_ms"] > 0
    assert "| OpenVINO, ms an image | not measured |" in text
    page = Collector()
    page.feed((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert f"Comparison on {HOSTILE}" in page.words
    assert any(image["alt"].startswith(f"{HOSTILE}/00") for image in page.images) == ("bad" in kinds)
    assert "x" not in page.tags


def test_an_export_that_does_not_take_one_image_is_not_timed(tmp_path, caplog) -> None:
    """As PatchCore's, where the exporter fixes the batch; the others are timed all the same."""
    files = {}
    for name, batch in (("fixed", 2), ("free", -1)):
        shape = openvino.PartialShape([batch, 3, -1, -1])
        images = openvino.opset13.parameter(shape, np.float32)
        openvino.save_model(openvino.Model([openvino.opset13.relu(images)], [images]), tmp_path / f"{name}.xml")
        files[name] = tmp_path / f"{name}.xml"
    rows = cost._openvino(files, np.zeros((1, 3, 8, 8), np.float32), 0.1)
    assert rows["free"]["openvino_ms"] > 0
    assert "openvino_ms" not in rows["fixed"]
    assert "cannot time an export" in caplog.text
    assert cost.runtime(rows) == ("torch_ms", "PyTorch")


def test_a_killed_training_goes_on(data_root, tmp_path) -> None:
    """A trial in a process of its own: kill -9 loses what came after the last checkpoint, and no more."""
    (tmp_path / "small.yaml").write_text(SMALL.replace("max_steps: 6", "max_epochs: 40"))
    (data,) = find_data(data_root)
    made = trial.Trial(Contestant.parse(str(tmp_path / "small.yaml")), data, 32, 1, 4, 0, "cpu", True, None, None)
    made.write(tmp_path / "trial.json")
    assert trial.Trial.read(tmp_path / "trial.json") == made
    command = [sys.executable, "-m", "anomalib_daad.commands.compare.trial", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "resume" / "last.ckpt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "result.json").exists()
    saved = torch.load(tmp_path / "resume" / "last.ckpt", weights_only=False)["epoch"]
    shutil.copytree(tmp_path / "resume", tmp_path / "kept")
    started = []
    run_epoch = trial.ReconstructionTraining.on_train_epoch_start

    def note(self) -> None:
        started.append(self.current_epoch)
        run_epoch(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.ReconstructionTraining, "on_train_epoch_start", note)
        patch.setattr(trial, "_export", lambda *_: {"deployed_mb": None, "not_exported": "left out"})
        trial.run(made, tmp_path)
    assert started == list(range(saved + 1, 40))
    assert (tmp_path / "result.json").exists()
    assert not (tmp_path / "resume").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"models": ["Patchcor"]}, "nearest are Patchcore"),
        ({"models": ["Padim,padim"]}, "once, got Padim, Padim"),
        ({"models": ["EfficientAd"], "pretrained": False}, "EfficientAd is built on pretrained weights"),
        ({"models": ["Padim"], "backbone": "nonsense", "pretrained": False}, "Padim cannot be built: "),
        ({"validation": "none"}, "no validation images"),
        ({"device": "tpu"}, "no device tpu"),
        ({"backbone_weights": Path("nowhere")}, "no file nowhere"),
        ({"data": Path("nowhere")}, "There is no folder nowhere"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(data_root, tmp_path, arguments, words) -> None:
    arguments = {"data": data_root, "models": ["Daad"], "image_size": 32, "output": tmp_path / "out", **arguments}
    with pytest.raises(ValueError, match=words) as error:
        compare(**arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_keeps_what_was_there(tmp_path, monkeypatch) -> None:
    path = tmp_path / "costs.json"
    path.write_text("before")

    def fill(self, text, **_) -> None:
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match=r"no space left to write .*costs\.json; what is finished is kept"):
        write_text(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_trial_on_a_full_disk_says_so_and_leaves_no_half_checkpoint(tmp_path, monkeypatch) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "half.ckpt").write_bytes(b"half")

    def fail(*_) -> None:
        msg = "PytorchStreamWriter failed writing file"
        raise RuntimeError(msg)

    monkeypatch.setattr(trial.Trial, "read", fail)
    monkeypatch.setattr(sys, "argv", ["trial", str(tmp_path)])
    for free, reason in ((0, "there is no space left on the disk"), (10**9, "PytorchStreamWriter failed")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(RuntimeError):
            trial.main()
        assert (tmp_path / "error.txt").read_text().startswith(reason)
        assert not (tmp_path / "engine").exists()


def test_a_model_without_weights_is_one_trial_whatever_the_others_start_from(data_root, tmp_path, monkeypatch) -> None:
    started = []

    def note(made: trial.Trial, folder: Path) -> str:
        started.append((made.contestant.name, folder.name))
        return "not run"

    monkeypatch.setattr(compare_models, "_run", note)
    for arguments in ({}, {"pretrained": False, "backbone": "resnet18"}):
        with pytest.raises(ValueError, match="not run"):
            compare(data_root, ["Ganomaly"], image_size=32, output=tmp_path, **arguments)
    folders = [folder for name, folder in started if name == "Ganomaly"]
    assert len(folders) == 2
    assert len(set(folders)) == 1

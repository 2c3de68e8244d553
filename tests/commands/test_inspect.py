# SPDX-License-Identifier: Apache-2.0

"""The inspection shows what the model did, on a page that needs nothing but itself."""

import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch, MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from browser import open_in_browser
from conftest import make_model, make_restoration
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_daad import MODELS, Daad, MemAe, Mnad
from anomalib_daad.commands.command_line import main
from anomalib_daad.commands.inspect import scores
from anomalib_daad.commands.inspect.answers import answer
from anomalib_daad.commands.inspect.images import InspectedImages
from anomalib_daad.commands.inspect.inspect_checkpoint import inspect
from anomalib_daad.commands.inspect.memory import draw_memories, place, strongest_items
from anomalib_daad.commands.inspect.observation import (
    MemoryUse,
    Observations,
    _Tally,
    choose,
    look,
    observe,
    prepare,
)
from anomalib_daad.commands.inspect.reconstruction import draw_rates, draw_reconstructions
from anomalib_daad.commands.shared.model_picture import to_picture
from anomalib_daad.commands.shared.picture import Omission
from anomalib_daad.commands.shared.trained_model import load_model, name_divisions
from anomalib_daad.components.fused_score import FusedScore
from anomalib_daad.models.daad_restoration.movement import move
from anomalib_daad.models.daad_restoration.placement import KNOWN
from anomalib_daad.training.checkpoint_content import FORMAT, KEY

HOSTILE = '<x>&"y'
PICTURES = ["reconstructions", "rates", "answers", "reads", "use", "items", "scores", "roc", "score_area"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring at 32 pixels."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def save_checkpoint(model, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state, arguments = model.state_dict(), dict(model.hparams)
    content = {"state_dict": state, "hyper_parameters": arguments, "pytorch-lightning_version": "2.6.0"}
    if type(model).__name__ in MODELS:
        content[KEY] = {"format": FORMAT, "model": type(model).__name__, "validated": True}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory) -> Path:
    """A model that was trained for an epoch and validated."""
    folder = tmp_path_factory.mktemp("trained")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=1, **quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        datamodule = MVTecAD(root=data_root, category="part", train_batch_size=4, eval_batch_size=4, num_workers=0)
        engine.fit(make_model(), datamodule=datamodule)
    return Path(engine.trainer.checkpoint_callback.best_model_path)


@pytest.fixture(scope="module")
def images(data_root) -> InspectedImages:
    return InspectedImages(data_root, "part")


@pytest.fixture(scope="module")
def observations(checkpoint, images) -> Observations:
    return observe(load_model(checkpoint), images)


@pytest.fixture(scope="module")
def page(checkpoint, data_root, tmp_path_factory) -> Path:
    """The page of two checkpoints, in folders whose names are not ASCII."""
    folder = tmp_path_factory.mktemp("Prüfung 检查")
    data = folder / "Teile <1> ü"
    shutil.copytree(data_root, data)
    coarse = save_checkpoint(make_model(division_rates=(1, 1, 2)), folder / "grob é.ckpt")
    inspect([checkpoint, coarse], data, "part", folder / "Ausgabe ß" / "neu")
    return folder / "Ausgabe ß" / "neu" / "index.html"


def test_use_is_that_of_every_block_of_every_image(data_root, images) -> None:
    model = make_model(num_items=40, division_rates=(2, 2, 2)).eval()
    for memory in model.model.autoencoder.memories:
        memory.temperature = 0.02  # so that some items are dead
    uses = observe(model, images).memories
    totals = [torch.zeros(40, dtype=torch.float64) for _ in uses]
    read = [set() for _ in uses]
    blocks = 0
    for path in sorted((data_root / "part/test").glob("*/*.png")):
        pixels = torch.from_numpy(cv2.imread(str(path))[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            features = model.model.autoencoder.encoder(model.pre_processor.transform(pixels))
            weights = [
                memory.address(part)[0] for memory, part in zip(model.model.autoencoder.memories, features, strict=True)
            ]
        blocks += 8
        for total, items, blocks_weights in zip(totals, read, weights, strict=True):
            for block in blocks_weights:
                total += block
                items.update(int(item) for item in range(40) if block[item] > 0)
    for scale, (use, total, items) in enumerate(zip(uses, totals, read, strict=True), start=1):
        assert use.scale == scale
        np.testing.assert_allclose(use.mean_weights, total / blocks, atol=1e-6)
        assert set(np.flatnonzero(~use.dead)) == items
    assert 0 < sum(use.dead.sum() for use in uses) < 120


def test_titles_count_the_dead_items(checkpoint, images, observations) -> None:
    dead = np.zeros(10, dtype=bool)
    dead[[2, 5, 7]] = True
    memories = [observations.memories[0]._replace(dead=dead), *observations.memories[1:]]
    *_, use, items = draw_memories(load_model(checkpoint), images, observations._replace(memories=memories))
    assert use.figure.axes[0].get_title() == "Scale 1: 3 of 10\nitems dead"
    assert "scale 1: 3 of 10 dead" in use.alt
    assert [len(points.get_offsets()) for points in items.figure.axes[0].collections] == [7, 3]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
def test_the_decision_line_satisfies_the_equation(gamma) -> None:
    score = FusedScore(gamma)
    score.calibrate(torch.tensor([200.0, 220.0]), torch.tensor([3.0, 3.5]))
    points = scores.decision_line(score, 0.4, np.array([190.0, 230.0]), np.array([2.0, 4.0]))
    assert not np.array_equal(points[0], points[1])
    for reconstruction, alignment in points:
        fused = gamma * (reconstruction - 200) / 20 + (1 - gamma) * (alignment - 3) / 0.5
        assert fused == pytest.approx(0.4, abs=1e-9)


def test_the_drawn_line_parts_the_images_as_the_model_does(checkpoint, observations) -> None:
    model = load_model(checkpoint)
    threshold = scores.Threshold(float(np.median(observations.fused)), "a test")
    (start, end) = scores.draw_parts(observations, model, threshold).figure.axes[0].lines[0].get_xydata()
    normal = np.array([start[1] - end[1], end[0] - start[0]])
    parts = np.stack([observations.reconstruction, observations.alignment], axis=1)
    beyond = (parts - start) @ normal > 1e-9 * np.abs(parts @ normal)
    away = np.abs(observations.fused - threshold.score) > 1e-6  # the median itself lies on the line
    assert (beyond == (observations.fused > threshold.score))[away].all()
    assert beyond[away].any()
    assert not beyond[away].all()


@pytest.mark.parametrize("sensitivity", [0.5, 0.3])
def test_the_threshold_is_where_the_post_processor_turns(checkpoint, observations, sensitivity) -> None:
    model = load_model(checkpoint)
    model.post_processor.image_sensitivity = sensitivity
    threshold = scores.find_threshold(model, observations)
    assert "checkpoint" in threshold.source
    around = torch.tensor([threshold.score - 1e-4, threshold.score + 1e-4], device=model.device)
    assert model.post_processor(InferenceBatch(pred_score=around)).pred_label.tolist() == [False, True]


def test_without_a_threshold_it_is_the_best_f1(observations) -> None:
    model = make_model(post_processor=False)
    threshold = scores.find_threshold(model, observations)
    assert "F1" in threshold.source

    def f1(limit: float) -> float:
        called = observations.fused >= limit
        return 2 * (called & observations.labels).sum() / (called.sum() + observations.labels.sum())

    assert f1(threshold.score) == pytest.approx(max(map(f1, observations.fused)))
    assert scores.find_threshold(model, observations._replace(labels=None)) is None


def test_scores_are_those_of_the_model(checkpoint, images, observations) -> None:
    model = load_model(checkpoint)
    for index, image in enumerate(images):
        with torch.no_grad():
            prepared = model.pre_processor.transform(image.pixels[None].to(model.device))
            parts = model.model.scores(prepared)
            assert observations.fused[index] == pytest.approx(float(model.model(prepared).pred_score), abs=1e-5)
        assert observations.reconstruction[index] == pytest.approx(float(parts.reconstruction), rel=1e-5)
        assert observations.alignment[index] == pytest.approx(float(parts.alignment), rel=1e-5)
        assert observations.labels[index] == ("bar" in observations.names[index])


def test_roc_title_and_curves(observations) -> None:
    roc = scores.draw_roc(observations)
    expected = {
        "R": observations.reconstruction,
        "L": observations.alignment,
        "fused": observations.fused,
    }
    title = roc.figure.axes[0].get_title()
    for (name, values), line in zip(expected.items(), roc.figure.axes[0].lines[1:], strict=True):
        pairs = [
            (bad > good) + 0.5 * (bad == good)
            for bad in values[observations.labels]
            for good in values[~observations.labels]
        ]
        assert np.mean(pairs) == pytest.approx(roc_auc_score(observations.labels, values))
        assert f"{name} {np.mean(pairs):.3f}" in title
        assert float(torch.trapezoid(*map(torch.tensor, (line.get_ydata(), line.get_xdata())))) == pytest.approx(
            np.mean(pairs)
        )


def test_areas_are_those_of_the_masks(data_root, observations) -> None:
    for name, area in zip(observations.names, observations.areas, strict=True):
        folder, file = name.split("/")
        path = data_root / "part/ground_truth" / folder / file.replace(".png", "_mask.png")
        expected = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127).mean() if folder == "bar" else 0
        assert area == pytest.approx(expected)
    points = scores.draw_areas(observations, None).figure.axes[1].collections[0].get_offsets()
    assert sorted(points[:, 0]) == pytest.approx(sorted(100 * observations.areas[observations.labels]))


def test_strongest_items_lie_where_their_blocks_do() -> None:
    """An item for each block, given the weight of that block alone, as the memory divides features."""
    memory = make_model(division_rates=(2, 2, 2)).model.autoencoder.memories[0]
    features = torch.arange(16 * 16 * 4.0).reshape(16, 16, 4).permute(2, 0, 1)[None]  # row by row, channels last
    queries = memory.divide(features)[0]
    weights = torch.zeros(8, 10)
    for query, block in enumerate(queries):
        corner = int(block.min())
        row, column, channel = corner // 64, corner % 64 // 4, corner % 4
        weights[query, 2 * (row // 8) + column // 8] = 0.5 if channel else 0.25
        weights[query, 9] = 0.3
    assert strongest_items(weights, (2, 2, 2)).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_answer_is_assembled_of_the_blocks_that_items_stand_for(groups) -> None:
    """Ten items and 2x2 blocks: each strongest item stands for some block of some good image."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(4 * groups, 10, generator=generator)
    weights[:groups, 7] = 2.0
    weights[groups:, 7] = 0.0
    examples, blocks = np.arange(10) % 3, (np.arange(10) * 3) % (4 * groups)
    examples[7] = -1  # no good block reads the item of the first block
    use = MemoryUse(1, np.zeros((10, 1)), np.zeros(10), np.zeros(10, bool), examples, blocks, 1.0, 10.0, 0.0)
    pictures = np.random.default_rng(0).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    result = answer(pictures.__getitem__, use, weights, (2, 2, groups))
    assert (result[:16, :16] == 0.5).all()
    for row, column in ((0, 1), (1, 0), (1, 1)):
        block = 2 * row + column
        item = int(weights[block * groups : (block + 1) * groups].amax(0).argmax())
        place = blocks[item] // groups
        top, left = 16 * (place // 2), 16 * (place % 2)
        expected = pictures[int(examples[item]), top : top + 16, left : left + 16]
        assert np.array_equal(result[16 * row : 16 * row + 16, 16 * column : 16 * column + 16], expected)


@pytest.mark.parametrize("transform", [None, [CenterCrop(24), Resize((32, 32)), Normalize([0.5] * 3, [0.5] * 3)]])
def test_a_memory_that_chooses_answers_with_good_blocks(images, transform) -> None:
    """Items that are the blocks of a good image, as the model sees it: it gets itself for an answer."""
    pre_processor = True if transform is None else PreProcessor(Compose(transform))
    model = make_model(num_items=16, division_rates=(4, 4, 1), pre_processor=pre_processor).eval()
    good = next(index for index, image in enumerate(images) if not image.defective)
    prepared = prepare(model, images[good])
    with torch.no_grad():
        for memory, feature in zip(
            model.model.autoencoder.memories, model.model.autoencoder.encoder(prepared), strict=True
        ):
            memory.items.copy_(memory.divide(feature)[0])
    read = look(model, images[good]).reads[-1]
    assert read.weights[0].argmax(dim=1).tolist() == list(range(16))
    tally = _Tally(1, read.items)
    tally.add(read.weights[0], good)
    expected = to_picture(prepared, (32, 32))

    def seen(index: int) -> np.ndarray:
        return expected if index == good else np.zeros_like(expected)

    np.testing.assert_allclose(answer(seen, tally.summarize(), read.weights[0], read.grid), expected, atol=1e-6)
    assert all(use.largest_weight > 4 and use.effective_items < 8 for use in observe(model, images).memories)


def test_examples_are_good_images_alone(images, tmp_path, data_root) -> None:
    model = make_model(division_rates=(4, 4, 1)).eval()
    labels = [image.defective for image in images]
    for use in observe(model, images).memories:
        assert {labels[index] for index in use.example_images if index >= 0} == {False}
    shutil.copytree(data_root / "part/test/bar", tmp_path / "all")
    unlabelled = observe(model, InspectedImages(tmp_path / "all", None)).memories
    assert all(0 not in use.example_images for use in unlabelled)  # the one that is drawn


def test_blocks_that_read_nothing_are_counted_apart() -> None:
    tally, weights = _Tally(1, torch.zeros(100, 2)), torch.zeros(10, 100)
    tally.add(weights, 0)
    assert np.isnan(tally.summarize().effective_items)
    assert tally.summarize().unanswered == 1
    weights[:4] = 0.01
    tally.add(weights, 0)
    assert tally.summarize().effective_items == pytest.approx(100)
    assert tally.summarize().unanswered == pytest.approx(0.8)


def test_links_to_images_keep_their_labels(tmp_path, data_root) -> None:
    for kind, source in (("good", "good"), ("broken", "bar")):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for path in (data_root / "part/test" / source).iterdir():
            (tmp_path / "parts" / kind / path.name).symlink_to(path)
    labels = [image.defective for image in InspectedImages(tmp_path / "parts", None)]
    assert (labels.count(True), labels.count(False)) == (6, 5)


def test_items_have_one_place_in_every_run() -> None:
    items = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    assert np.array_equal(place(items), place(items))
    directions = np.repeat(np.eye(3, 6, dtype=np.float32), 10, axis=0)
    lengths = np.random.default_rng(1).uniform(1, 100, (30, 1)).astype(np.float32)
    noise = np.random.default_rng(2).normal(scale=1e-3, size=(30, 6)).astype(np.float32)
    groups = place((directions + noise) * lengths).reshape(3, 10, 2)
    spread = np.linalg.norm(groups - groups.mean(axis=1, keepdims=True), axis=-1).max()
    centers = groups.mean(axis=1)
    assert min(np.linalg.norm(centers[i] - centers[i - 1]) for i in range(3)) > spread
    for count in (1, 3):
        assert np.isfinite(place(items[:count])).all()


def test_close_up_is_the_models_reconstruction(checkpoint, images) -> None:
    model = load_model(checkpoint)
    close_up = look(model, images[0])
    prepared = model.pre_processor.transform(images[0].pixels[None].to(model.device))
    with torch.no_grad():
        rebuilt = model.model.autoencoder(prepared).cpu()
        expected_map = model.model(prepared).anomaly_map[0, 0].cpu()
    prepared = prepared.cpu()
    atol = 1e-6 if model.device.type == "cpu" else 1e-5  # a GPU rounds otherwise from one batch to the next
    np.testing.assert_allclose(close_up.reconstruction, (rebuilt[0].permute(1, 2, 0) + 1) / 2, atol=atol)
    np.testing.assert_allclose(close_up.error, (rebuilt - prepared)[0].abs().mean(dim=0) / 2, atol=atol)
    np.testing.assert_allclose(close_up.anomaly_map, expected_map, atol=atol)


def test_good_and_defective_images_are_chosen(observations) -> None:
    chosen = choose(observations, 3)
    assert [bool(observations.labels[index]) for index in chosen] == [False] * 3 + [True] * 3
    assert len(set(chosen)) == 6
    assert len(choose(observations, 100)) == len(observations.names)


def test_rates_have_a_column_for_each_model(checkpoint, images, observations) -> None:
    models = [load_model(checkpoint), make_model(division_rates=(1, 1, 2)).eval(), make_model(division_rates=None)]
    models += [make_model(connections="skip").eval()]
    assert [name_divisions(model) for model in models] == ["2x2x1", "1x1x2", "pixels", "no memory"]
    axes = draw_rates([model.eval() for model in models], images, observations).figure.axes
    assert [panel.get_title() for panel in axes[:5]] == ["input", "2x2x1", "1x1x2", "pixels", "no memory"]
    shown = axes[2].images[0].get_array()
    np.testing.assert_allclose(shown, look(models[1], images[choose(observations, 2)[0]]).reconstruction, atol=1e-6)


class PageParser(HTMLParser):
    """Collects the tags, and checks that they close."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_every_picture_and_asks_for_nothing(page) -> None:
    text = page.read_text(encoding="utf-8")
    tags = PageParser(text).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert all(len(attributes["alt"]) > 20 for attributes in pictures)
    kinds, data = zip(*(attributes["src"].split(",") for attributes in pictures), strict=True)
    assert set(kinds) == {"data:image/png;base64", "data:image/jpeg;base64"}
    charts = {b64decode(content) for kind, content in zip(kinds, data, strict=True) if "png" in kind}
    assert charts == {page.with_name(f"{name}.png").read_bytes() for name in PICTURES}
    assert all(content.startswith(b"\x89PNG") for content in charts)
    shown = [attributes["alt"].split(": ") for attributes in pictures if "jpeg" in attributes["src"]]
    views = {name: [what for other, what in shown if other == name] for name, _ in shown}
    assert [name.startswith("bar/") for name in views] == [True] * 3 + [False] * 3
    made = ["the image", "what the model expected", "what is odd to it"]
    assert all(it == [*made, "the true defect"] for name, it in views.items() if "bar/" in name)
    assert all(it == made for name, it in views.items() if "good/" in name)
    visible = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.search(r"https?:|//|url\(|@import", visible.replace(str(page.parent.parent.parent), ""))
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object"}
    assert ("html", {"lang": "en"}) in tags
    assert any(attributes.get("name") == "viewport" for _, attributes in tags)
    assert [tag for tag, _ in tags].count("h1") == 1
    assert "Teile &lt;1&gt; ü" in text
    assert len(text) < 5e6
    assert "1x1x2: " in text


def test_the_page_begins_with_what_the_model_finds(page, checkpoint, observations) -> None:
    threshold = float(load_model(checkpoint).post_processor.image_threshold)
    rejected, labels = observations.fused > threshold, observations.labels
    told = f"finds {(rejected & labels).sum()} of 6 defects and rejects {(rejected & ~labels).sum()} of 5 good parts."
    assert f"<h1>Daad {told}</h1>" in page.read_text(encoding="utf-8")


def test_a_name_of_markup_is_text(tmp_path, data_root, checkpoint) -> None:
    folder = tmp_path / HOSTILE
    shutil.copytree(data_root / "part/test/good", folder / "good")
    shutil.copytree(data_root / "part/test/bar", folder / HOSTILE)
    inspect([checkpoint], folder, output=tmp_path / "out")
    tags = PageParser((tmp_path / "out/index.html").read_text(encoding="utf-8")).tags
    assert "x" not in {tag for tag, _ in tags}
    assert f"{HOSTILE}/000.png: the image" in {attributes.get("alt") for _, attributes in tags}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(page, tmp_path, width) -> None:
    console, asked, shown = open_in_browser(page, tmp_path, width)
    assert (console, asked) == ([], [])
    assert shown.shape[1] == width
    assert shown[: len(shown) // 4, -8:].min() > 200  # an empty margin: nothing is cut off at the right
    assert shown.std() > 10


def test_the_browser_would_tell(tmp_path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<!doctype html><img src="http://example.invalid/a.png"><script>console.error("no")</script>')
    console, asked, _ = open_in_browser(page, tmp_path, 390)
    assert len(console) >= 1
    assert asked == ["http://example.invalid/a.png"]


@pytest.mark.parametrize("arguments", [{"connections": "skip"}, {"connections": "none", "adversarial": False}])
def test_a_model_without_memories_leaves_their_pictures_out(tmp_path, data_root, arguments) -> None:
    checkpoint = save_checkpoint(make_model(**arguments), tmp_path / "model.ckpt")
    inspect([checkpoint], data_root, "part", tmp_path / "out")
    files = {path.stem for path in (tmp_path / "out").iterdir()}
    assert files == {*PICTURES, "index"} - {"rates", "answers", "items", "use", "reads"}
    assert "The model has no memories." in (tmp_path / "out/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: make_restoration(), ["DaadRestoration, 64x64", "Restored:", "learned comparison"]),
        (lambda: MemAe(image_size=(32, 32), num_items=20, base_channels=4), ["MemAe", "Rebuilt:", "squared error"]),
        (lambda: Mnad(image_size=(32, 32), base_channels=4), ["Mnad", "signal-to-noise", "pixels"]),
    ],
    ids=["restoration", "memae", "mnad"],
)
def test_every_model_is_inspected_in_its_own_words(tmp_path, data_root, model, words) -> None:
    checkpoint = save_checkpoint(model(), tmp_path / "model.ckpt")
    inspect([checkpoint], data_root, "part", tmp_path / "out")
    assert {"reconstructions.png", "answers.png", "items.png", "use.png", "reads.png", "scores.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert all(word in text for word in words)
    assert ("discriminator" in text) == ("Daad," in words[0])


def test_maps_that_are_negative_everywhere_are_drawn(tmp_path, data_root, monkeypatch) -> None:
    """As after a few steps: nothing differs from what good images have."""
    model, images = make_restoration().eval(), InspectedImages(data_root, "part")
    judge = model.model.judge
    monkeypatch.setattr(
        model.model, "judge", lambda it: judge(it)._replace(anomaly_map=-1 - torch.rand(len(it), 1, 32, 32))
    )
    picture = draw_reconstructions(model, images, observe(model, images))
    picture.save(tmp_path)
    low, high = (float(label.get_text()) for label in picture.figure.axes[-2].get_xticklabels())
    assert -2 <= low < high <= -1


def test_what_was_restored_is_shown_where_the_part_lies(data_root) -> None:
    """Of a network that searches for the place of parts: moved there, restored, and moved back."""
    model, images = make_restoration().eval(), InspectedImages(data_root, "part")
    network = model.model
    network.placement.growth.fill_(KNOWN)
    rebuilt = look(model, images[0]).reconstruction
    with torch.no_grad():
        seen = network.detail(model.pre_processor.transform(images[0].pixels[None]))
        placed = network.placement(seen, network.restore)
        expected = move(placed.restorations, -placed.rows, -placed.columns)[:, :3]
        expected = interpolate(expected, (64, 64), mode="bilinear")
    np.testing.assert_allclose(rebuilt, ((expected[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1), atol=1e-5)


def test_a_model_without_discriminator_has_a_histogram(tmp_path, images) -> None:
    model = make_model(adversarial=False, division_rates=None).eval()
    model.model.score.calibrate(torch.tensor([2.0, 6.0]), None)
    observations = observe(model, images)
    assert observations.alignment is None
    threshold = scores.Threshold(0.25, "a test")
    histogram = scores.draw_histogram(observations, model, threshold).figure.axes[0]
    assert sum(patch.get_height() for patch in histogram.patches) == len(images)
    assert histogram.lines[0].get_xdata()[0] == 3.0
    assert re.fullmatch(r"AUROC: R \d\.\d{3}", scores.draw_roc(observations).figure.axes[0].get_title())
    for picture in draw_memories(model, images, observations):  # 16x16 blocks at the finest scale
        picture.save(tmp_path)
    draw_reconstructions(model, images, observations).save(tmp_path)


@pytest.mark.parametrize("name", ["teile", "Prüfteile 部品"])
def test_folders_of_good_and_other_images_are_labels(tmp_path, data_root, checkpoint, name) -> None:
    folder = tmp_path / name
    shutil.copytree(data_root / "part/test/good", folder / "good")
    shutil.copytree(data_root / "part/test/bar", folder / "broken/2024-01")
    shutil.copytree(data_root / "part/ground_truth/bar", folder / "masks")
    images = InspectedImages(folder, None)
    labels = {image.name: image.defective for image in images}
    good = len(list((folder / "good").iterdir()))
    assert [*labels.values()].count(False) == good
    assert [*labels.values()].count(True) == len(labels) - good == len(list((folder / "broken/2024-01").iterdir()))
    inspect([checkpoint], folder, output=tmp_path / "out")
    assert (tmp_path / "out/roc.png").exists()


def test_one_image_beside_the_folders_has_no_label(tmp_path, data_root) -> None:
    shutil.copytree(data_root / "part/test/good", tmp_path / "good")
    shutil.copy(data_root / "part/test/bar/000.png", tmp_path / "new.png")
    assert {image.defective for image in InspectedImages(tmp_path, None)} == {None, False}


def test_a_folder_named_otherwise_has_no_labels(tmp_path, data_root) -> None:
    shutil.copytree(data_root / "part/test/good", tmp_path / "fine")
    shutil.copytree(data_root / "part/test/bar", tmp_path / "broken")
    assert {image.defective for image in InspectedImages(tmp_path, None)} == {None}


def test_a_folder_of_images(tmp_path, data_root, checkpoint) -> None:
    folder = tmp_path / "部品"
    shutil.copytree(data_root / "part/test/bar", folder)
    inspect([checkpoint], folder, output=tmp_path / "out")
    assert not (tmp_path / "out/roc.png").exists()
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "ROC curves need good and defective images, and here no image is labelled." in text
    assert "No image has a mask of its defect." in text
    assert "not labelled" in text


def test_without_defective_images_there_is_no_roc(tmp_path, data_root, checkpoint) -> None:
    shutil.copytree(data_root / "part", tmp_path / "data/part", ignore=shutil.ignore_patterns("bar"))
    inspect([checkpoint], tmp_path / "data", "part", tmp_path / "out")
    assert not (tmp_path / "out/roc.png").exists()
    assert (tmp_path / "out/scores.png").exists()
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "ROC curves need good and defective images, and here no image is defective." in text


def test_scores_that_are_not_finite_are_refused(images) -> None:
    model = make_model().eval()
    torch.nn.init.constant_(model.model.autoencoder.decoder.scales[-1][0].bias, torch.nan)
    with pytest.raises(ValueError, match="scores are not finite"):
        observe(model, images)


def command(monkeypatch, capsys, *arguments) -> str:
    """Run the command, which must refuse, and return its last line of standard error."""
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("anomalib-daad: error: ")
    return line


def test_the_command_takes_several_checkpoints(monkeypatch, tmp_path, data_root, checkpoint) -> None:
    arguments = [checkpoint, checkpoint, "--data", data_root, "--category", "part", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", "inspect", *map(str, arguments)])
    main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", *(f"{name}.png" for name in PICTURES)}


def other_checkpoints(folder: Path) -> dict[str, Path]:
    padim = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=10)
    files = {name: folder / f"{name}.ckpt" for name in ("missing", "text", "weights", "empty", "list")}
    files["text"].write_text("not a checkpoint")
    files["empty"].touch()
    torch.save({"weight": torch.zeros(3)}, files["weights"])
    torch.save([1, 2], files["list"])
    return {**files, "padim": save_checkpoint(padim, folder / "padim.ckpt")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "There is no checkpoint"),
        ("text", "not a Lightning checkpoint"),
        ("empty", "not a Lightning checkpoint"),
        ("weights", "not a Lightning checkpoint"),
        ("list", "not a Lightning checkpoint"),
        ("padim", "another kind of model"),
    ],
)
def test_another_checkpoint_is_refused(monkeypatch, capsys, tmp_path, data_root, name, words) -> None:
    path = other_checkpoints(tmp_path)[name]
    line = command(monkeypatch, capsys, path, "--data", data_root, "--category", "part", "--output", tmp_path / "out")
    assert words in line
    assert str(path) in line
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there_are_refused(monkeypatch, capsys, tmp_path, data_root, checkpoint) -> None:
    (tmp_path / "root/broken/train/good").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    (tmp_path / "masks/part").mkdir(parents=True)
    shutil.copytree(data_root / "part/test", tmp_path / "masks/part/test")
    for arguments, words in (
        (["--data", tmp_path / "nowhere", "--category", "part"], "There is no folder"),
        (["--data", data_root, "--category", "párt"], "no category párt"),
        (["--data", data_root, "--category", "párt"], "found: part."),
        (["--data", tmp_path / "root", "--category", "broken"], "not in MVTec AD's layout"),
        (["--data", tmp_path / "masks", "--category", "part"], "not in MVTec AD's layout"),
        (["--data", data_root], "holds the categories part: choose one with --category"),
        (["--data", data_root / "part"], f"use --data {data_root} --category part"),
        (["--data", tmp_path / "none"], "There are no images"),
    ):
        assert words in command(monkeypatch, capsys, checkpoint, *arguments, "--output", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(
    monkeypatch, capsys, tmp_path, data_root, checkpoint
) -> None:
    (tmp_path / "file").touch()
    data = ["--data", data_root, "--category", "part"]
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        line = command(monkeypatch, capsys, checkpoint, *data, "--output", output)
        assert f"Cannot write to the folder {output}" in line


def test_omissions_are_told_apart_from_pictures(observations) -> None:
    bad = observations._replace(labels=np.ones_like(observations.labels))
    assert scores.draw_roc(bad) == Omission(
        "ROC curves", "ROC curves need good and defective images, and here all images are defective."
    )


def test_loading_leaves_the_model_as_trained(checkpoint) -> None:
    model = load_model(checkpoint)
    assert isinstance(model, Daad)
    assert not model.training

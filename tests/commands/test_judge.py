# SPDX-License-Identifier: Apache-2.0

"""Images judged by a checkpoint and by its exports: table, file and page."""

import csv
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from anomalib.engine import Engine
from conftest import make_model
from PIL import Image

from anomalib_daad import Daad, save_safetensors
from anomalib_daad.commands.command_line import main
from anomalib_daad.commands.judge import judge_images
from anomalib_daad.commands.judge.judge import TrainedJudge, open_judge
from anomalib_daad.commands.judge.judge_images import judge
from anomalib_daad.training.export_description import write_description

ODD = '<b>&"1".png'


@pytest.fixture(scope="module")
def trained(daad, tmp_path_factory) -> dict[str, Path]:
    """A trained model as a checkpoint, as bare weights and as exports."""
    weights = tmp_path_factory.mktemp("trained") / "model.safetensors"
    return {**vars(daad), "safetensors": save_safetensors(Daad.load_from_checkpoint(daad.checkpoint), weights)}


@pytest.fixture
def parts(data_root, tmp_path) -> Path:
    """Twelve images in two folders, one with a name that HTML must not read."""
    folder = tmp_path / "parts"
    for kind in ("good", "bar"):
        shutil.copytree(data_root / "part" / "test" / kind, folder / kind)
    first = next(iter(sorted((folder / "bar").iterdir())))
    first.rename(first.with_name(ODD))
    return folder


def rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}  # the last line of a file counts


def predicted(checkpoint: Path, parts: Path) -> dict[str, tuple[float, bool]]:
    engine = Engine(accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
    model = make_model(visualizer=False)
    batches = engine.predict(model, data_path=parts, ckpt_path=checkpoint)
    return {
        Path(path).relative_to(parts).as_posix(): (float(score), bool(label))
        for batch in batches
        for path, score, label in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True)
    }


@pytest.mark.parametrize("kind", ["checkpoint", "safetensors", "onnx", "openvino"])
def test_scores_and_verdicts_are_those_of_anomalibs_prediction(trained, parts, tmp_path, kind) -> None:
    judge(trained[kind], parts, tmp_path / "out")
    expected, found = predicted(trained["checkpoint"], parts), rows(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert len(found) > 8
    for name, (score, label) in expected.items():
        assert float(found[name]["score"]) == pytest.approx(score, abs=1e-4)
        if abs(score - 0.5) > 1e-3:
            assert found[name]["verdict"] == ("defective" if label else "good")


@pytest.mark.parametrize("kind", ["checkpoint", "onnx", "openvino"])
def test_p_values_and_raw_scores_are_those_of_the_network(trained, parts, tmp_path, kind) -> None:
    judge(trained[kind], parts, tmp_path / "out")
    model = Daad.load_from_checkpoint(trained["checkpoint"])
    good = model.post_processor.good_scores[model.post_processor.good_scores.isfinite()].numpy()
    assert len(good) == 5
    for name, row in rows(tmp_path / "out").items():
        image = torch.from_numpy(np.asarray(Image.open(parts / name).convert("RGB")) / np.float32(255))
        with torch.no_grad():
            raw = float(model.model(model.pre_processor(image.permute(2, 0, 1)[None])).pred_score)
        near = np.abs(good - raw) < 1e-4 * np.ptp(good)
        if not near.any():  # an image that the threshold is from may end on either side of itself
            assert float(row["p_value"]) == pytest.approx((1 + (good >= raw).sum()) / 6, abs=1e-5)
        if 0 < float(row["score"]) < 1:
            assert float(row["raw_score"]) == pytest.approx(raw, rel=1e-3, abs=1e-4 * float(np.ptp(good)))


def test_an_export_that_was_replaced_is_refused(trained, parts, tmp_path) -> None:
    shutil.copytree(trained["onnx"].parent, tmp_path / "onnx")
    replaced = tmp_path / "onnx" / trained["onnx"].name
    with replaced.open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"model.json describes another file than .*model.onnx, which was changed"):
        judge(replaced, parts, tmp_path / "out")


def test_the_place_is_the_maps_strongest_point(trained, parts, tmp_path) -> None:
    judge(trained["checkpoint"], parts, tmp_path / "out")
    opened = open_judge(trained["checkpoint"])
    for name, row in rows(tmp_path / "out").items():
        image = np.asarray(Image.open(parts / name).convert("RGB"), np.float32) / 255
        heat = opened.judge(image).anomaly_map
        peak = np.unravel_index(heat.argmax(), heat.shape)
        for place, index, side, length in zip((row["y"], row["x"]), peak, image.shape, heat.shape, strict=False):
            assert int(place) <= (index + 0.5) / length * side < int(place) + 1


def test_a_threshold_of_the_users_decides(trained, parts, tmp_path) -> None:
    judge(trained["checkpoint"], parts, tmp_path / "all", threshold=-1.0)
    judge(trained["checkpoint"], parts, tmp_path / "none", threshold=2.0)
    assert {row["verdict"] for row in rows(tmp_path / "all").values()} == {"defective"}
    assert {row["verdict"] for row in rows(tmp_path / "none").values()} == {"good"}


def test_files_that_cannot_be_read_are_named_and_stop_nothing(trained, parts, tmp_path, capsys) -> None:
    (parts / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(parts / "deep.png")
    judge(trained["checkpoint"], parts, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert {name for name, row in found.items() if row["verdict"] == "unreadable"} == {"broken.png", "deep.png"}
    assert "more than 8 bits" in found["deep.png"]["note"]
    assert sum(bool(row["score"]) for row in found.values()) == len(found) - 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert "deep.png: more than 8 bits" in page
    assert "2 cannot be read" in " ".join(capsys.readouterr().out.split())


def test_what_was_interrupted_goes_on(trained, parts, tmp_path, monkeypatch) -> None:
    whole, output, judged = tmp_path / "whole", tmp_path / "out", []
    judge(trained["checkpoint"], parts, whole)
    original = TrainedJudge.judge

    def three(self, image):
        judged.append(image)
        if len(judged) == 4:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(TrainedJudge, "judge", three)
    with pytest.raises(KeyboardInterrupt):
        judge(trained["checkpoint"], parts, output)
    assert len(rows(output)) == 3
    with (output / "scores.csv").open("a") as file:
        file.write("good/half a li")  # killed while it wrote
    monkeypatch.setattr(TrainedJudge, "judge", lambda self, image: judged.append(image) or original(self, image))
    monkeypatch.setattr(judge_images, "_cards", lambda *_: [])  # they are judged again for their pictures
    judged.clear()
    judge(trained["checkpoint"], parts, output)
    assert len(judged) == len(rows(whole)) - 3
    assert rows(output) == rows(whole)
    judged.clear()
    judge(trained["checkpoint"], parts, output)
    assert not judged


def test_a_file_that_changed_is_judged_again(trained, parts, tmp_path) -> None:
    output, deep = tmp_path / "out", parts / "deep.png"
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(deep)
    judge(trained["checkpoint"], parts, output)
    before = rows(output)
    shutil.copy(parts / "bar" / "001.png", parts / "good" / "000.png")
    shutil.copy(parts / "bar" / "002.png", deep)
    judge(trained["checkpoint"], parts, output)
    after = rows(output)
    assert after["good/000.png"]["score"] == after["bar/001.png"]["score"] != before["good/000.png"]["score"]
    assert (before["deep.png"]["verdict"], after["deep.png"]["score"]) == ("unreadable", after["bar/002.png"]["score"])
    assert [text for text in Page(output / "index.html").texts if text == "deep.png"] == ["deep.png"]


def test_without_a_threshold_there_is_no_verdict(trained, parts, tmp_path, monkeypatch, capsys) -> None:
    model = open_judge(trained["checkpoint"]).model
    model.post_processor.enable_thresholding = False
    monkeypatch.setattr(judge_images, "open_judge", lambda _: TrainedJudge(model))
    judge(trained["checkpoint"], parts, tmp_path / "out")
    assert {row["verdict"] for row in rows(tmp_path / "out").values()} == {"undecided"}
    assert "without a verdict: the model has no threshold" in " ".join(capsys.readouterr().out.split())
    judge(trained["checkpoint"], parts, tmp_path / "own", threshold=0.5)
    assert {row["verdict"] for row in rows(tmp_path / "own").values()} <= {"good", "defective"}


def test_the_threshold_that_is_told_is_the_models(trained) -> None:
    opened = open_judge(trained["checkpoint"])
    assert opened.threshold == 0.5
    opened.model.post_processor.image_sensitivity = 0.7
    assert TrainedJudge(opened.model).threshold == pytest.approx(0.3)
    opened.model.post_processor.enable_normalization = False
    assert TrainedJudge(opened.model).threshold == float(opened.model.post_processor.image_threshold)


def test_an_untrained_model_judges_nothing() -> None:
    with pytest.raises(ValueError, match="never trained"):
        TrainedJudge(make_model().eval())


def test_a_wrong_path_costs_nothing(trained, parts, tmp_path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="There is no model"):
        judge(tmp_path / "modle.ckpt", parts, output)
    judge(trained["checkpoint"], parts, output)
    before = (output / "scores.csv").read_text()
    with pytest.raises(ValueError, match="There is no model"):
        judge(tmp_path / "modle.ckpt", parts, output, overwrite=True)
    assert (output / "scores.csv").read_text() == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_any_name_is_judged(trained, parts, tmp_path, capsys) -> None:
    (parts / "x[").mkdir()
    shutil.copy(parts / "bar" / "001.png", parts / "x[" / "b].png")
    shutil.copy(parts / "bar" / "001.png", parts / "a[red].png")
    shutil.copy(parts / "bar" / "001.png", os.fsencode(parts) + b"/gr\xfc.png")
    judge(trained["checkpoint"], parts, tmp_path / "out")
    assert {"x[/b].png", "a[red].png", r"gr\xfc.png"} <= rows(tmp_path / "out").keys()
    assert "a[red].png" in capsys.readouterr().out


def test_an_export_of_a_fixed_size_names_images_that_do_not_fit(trained, parts, tmp_path) -> None:
    path = Path(shutil.copytree(trained["onnx"].parent, tmp_path / "fixed")) / trained["onnx"].name
    graph = onnx.load(path)
    for side, length in zip(graph.graph.input[0].type.tensor_type.shape.dim[2:], (48, 40), strict=True):
        side.dim_value = length
    onnx.save_model(graph, path)
    write_description(Daad.load_from_checkpoint(trained["checkpoint"]), [path], (48, 40))
    Image.new("RGB", (30, 30)).save(parts / "other.png")
    judge(path, parts, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert found["other.png"]["verdict"] == "unreadable"
    assert "takes no image of 30x30" in found["other.png"]["note"]
    assert sum(row["verdict"] == "unreadable" for row in found.values()) == 1


def test_scores_of_another_model_are_not_mixed(trained, parts, tmp_path) -> None:
    output = tmp_path / "out"
    judge(trained["checkpoint"], parts, output)
    before = (output / "scores.csv").read_text()
    with pytest.raises(ValueError, match=r"scores of another model.*--overwrite"):
        judge(trained["onnx"], parts, output)
    with pytest.raises(ValueError, match="scores of another threshold"):
        judge(trained["checkpoint"], parts, output, threshold=0.3)
    assert (output / "scores.csv").read_text() == before
    judge(trained["onnx"], parts, output, overwrite=True)
    assert "onnx" in json.loads((output / "judged_with.json").read_text())["model"]


class Page(HTMLParser):
    """What a page shows, in order, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts, self.addresses, self.tags = [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action"}]

    def handle_data(self, data) -> None:
        self.texts.append(data.strip())


def test_the_page_shows_the_oddest_first_and_needs_nothing_else(trained, parts, tmp_path) -> None:
    judge(trained["checkpoint"], parts, tmp_path / "out")
    page, found = Page(tmp_path / "out" / "index.html"), rows(tmp_path / "out")
    order = sorted(found, key=lambda name: -float(found[name]["score"]))
    assert [text for text in page.texts if text in found] == order
    assert f"bar/{ODD}" in order
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert len(page.addresses) == 3 * len(found)  # image, expected, odd
    assert not {"script", "link", "b>"} & set(page.tags)
    assert (tmp_path / "out" / "index.html").stat().st_size < 5e6


def test_an_export_has_no_expected_picture(trained, parts, tmp_path) -> None:
    judge(trained["onnx"], parts, tmp_path / "out")
    assert len(Page(tmp_path / "out" / "index.html").addresses) == 2 * len(rows(tmp_path / "out"))


def test_a_page_stays_small(trained, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judge_images, "BYTES", 60_000)
    judge(trained["checkpoint"], parts, tmp_path / "out")
    page, count = Page(tmp_path / "out" / "index.html"), len(rows(tmp_path / "out"))
    shown = len(page.addresses) // 3
    assert 0 < shown < count
    assert any(f"The {shown} highest scores of {count}" in text for text in page.texts)


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", *map(str, arguments)])
    main()


def test_the_command_takes_model_and_images_by_their_place(trained, parts, tmp_path, monkeypatch, capsys) -> None:
    run(monkeypatch, "judge", trained["checkpoint"], parts, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert len(rows(tmp_path / "out")) > 8
    assert re.search(r"\d+ of \d+ images are defective", printed)
    assert "good/" in printed


@pytest.mark.parametrize(
    ("model", "images", "said"),
    [
        ("gone.ckpt", "parts", "There is no model gone.ckpt"),
        ("model.bin", "parts", "give model.xml"),
        ("model.pt", "parts", "TRUST_REMOTE_CODE=1"),
        ("model.xml", "parts", "no export that can be opened"),
        ("text.ckpt", "parts", "text.ckpt"),
        ("checkpoint", "gone", "There is no image or folder gone"),
        ("checkpoint", "empty", "There are no images in empty"),
    ],
)
def test_bad_input_is_one_line(trained, parts, tmp_path, monkeypatch, capsys, model, images, said) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    (tmp_path / "empty").mkdir()
    for name in ("model.bin", "model.pt", "model.xml", "text.ckpt"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "judge", trained.get(model, model), images)
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("anomalib-daad: error:")
    assert os.path.isdir(parts)  # noqa: PTH112

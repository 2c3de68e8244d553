# SPDX-License-Identifier: Apache-2.0

"""Thresholds taken anew from good images, of checkpoints and of their exports."""

import ast
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import draw
from PIL import Image

from anomalib_daad import load_safetensors, save_safetensors
from anomalib_daad.commands.calibrate import calibrate_model
from anomalib_daad.commands.calibrate.calibrate_model import calibrate
from anomalib_daad.commands.command_line import main
from anomalib_daad.commands.shared.trained_model import load_model
from anomalib_daad.training.conformal_threshold import grid, pixel_threshold, threshold
from anomalib_daad.training.export_description import checksum

FOLDER = Path(calibrate_model.__file__).parent
EXPORT_CODE = ("outcome", "linear_scale", "onnx_export", "openvino_export")
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


@pytest.fixture(scope="module")
def trained(daad, tmp_path_factory) -> dict[str, Path]:
    """A Daad and its exports, one with weights in a file of their own, one without scaled scores."""
    folder = tmp_path_factory.mktemp("trained")
    files = vars(daad).copy()
    files["safetensors"] = save_safetensors(load_model(daad.checkpoint), folder / "model.safetensors")
    described = json.loads(files["onnx"].with_suffix(".json").read_text())
    graph = onnx.load(files["onnx"])
    onnx.save_model(graph, folder / "split.onnx", save_as_external_data=True, location="split.onnx.data")
    choice = next(node.input[0] for node in graph.graph.node if "pred_score" in node.output)
    constant = next(it for it in graph.graph.initializer if it.name == choice)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(False), choice))  # as of a model without ranges
    onnx.save_model(graph, folder / "unscaled.onnx")
    for name in ("split", "unscaled"):
        files[name] = folder / f"{name}.onnx"
        about = {**described, "sha256": {f"{name}.onnx": checksum(files[name])}}
        (folder / f"{name}.json").write_text(json.dumps(about))
    return files


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Nineteen good parts under a darker light."""
    return draw(tmp_path_factory.mktemp("parts") / "good", 19, 0.7)


def pixels_of(folder: Path) -> list[np.ndarray]:
    images = [np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in sorted(folder.iterdir())]
    return [image.transpose(2, 0, 1)[None] for image in images]


def run(export: Path, images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What an export says, by its runtime alone."""
    if export.suffix == ".onnx":
        session = onnxruntime.InferenceSession(export.read_bytes(), providers=["CPUExecutionProvider"])
        return [dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": image}), strict=True)) for image in images]
    compiled = openvino.Core().compile_model(export, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [{name: found[name].copy() for name in OUTPUTS} for found in map(compiled, ([it] for it in images))]


def raw(checkpoint: Path, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps as the network gives them."""
    model = load_model(checkpoint)
    with torch.no_grad():
        found = [model.model(model.pre_processor(torch.from_numpy(image))) for image in images]
    return np.array([float(it.pred_score) for it in found]), np.stack([it.anomaly_map[0].numpy() for it in found])


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_exports_scores_and_verdicts_are_those_of_the_new_threshold(trained, good, tmp_path, kind) -> None:
    export = trained[kind]
    before, images = export.read_bytes(), pixels_of(good)
    target = tmp_path / f"new{export.suffix}"
    calibrate(export, good, 0.1, 0.01, target)
    scores, maps = raw(trained["checkpoint"], images)
    limit = threshold(np.sort(scores), 0.1)
    pixel_limit = pixel_threshold(grid(maps), 0.01)
    about = json.loads(target.with_suffix(".json").read_text())["raw"]
    assert about["image_threshold"] == pytest.approx(limit, rel=1e-4)
    assert about["pixel_threshold"] == pytest.approx(pixel_limit, rel=1e-3)
    new = draw(tmp_path / "more", 4, 1.0, seed=9)  # others than those it was calibrated with
    images = [*images, *pixels_of(new)]
    scores, maps = raw(trained["checkpoint"], images)
    for found, score, map_ in zip(run(target, images), scores, maps, strict=True):
        expected = np.clip((score - limit) / about["image_range"] + 0.5, 0, 1)
        assert found["pred_score"].item() == pytest.approx(expected, abs=1e-4)
        expected = np.clip((map_ - pixel_limit) / about["pixel_range"] + 0.5, 0, 1)
        np.testing.assert_allclose(found["anomaly_map"][0], expected, atol=1e-3)
        if abs(score - limit) > 1e-5:
            assert bool(found["pred_label"].item()) == (score > limit)
        assert (found["pred_mask"] == (found["anomaly_map"] > 0.5)).all()
    assert export.read_bytes() == before


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_export_is_rescaled_linearly_to_the_last_digits(trained, good, tmp_path, kind) -> None:
    target = tmp_path / f"new{trained[kind].suffix}"
    calibrate(trained[kind], good, 0.3, output=target)
    old, new = (json.loads(path.with_suffix(".json").read_text())["raw"] for path in (trained[kind], target))
    images = pixels_of(draw(tmp_path / "more", 6))
    inside = 0
    for was, now in zip(run(trained[kind], images), run(target, images), strict=True):
        score = old["image_threshold"] + (was["pred_score"].item() - 0.5) * old["image_range"]
        expected = np.clip((score - new["image_threshold"]) / new["image_range"] + 0.5, 0, 1)
        if 0 < was["pred_score"].item() < 1:
            inside += 1
            assert now["pred_score"].item() == pytest.approx(expected, abs=1e-5)
    assert inside > 2


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_calibrated_export_is_calibrated_again_without_growing(trained, good, tmp_path, kind) -> None:
    suffix = trained[kind].suffix
    other = draw(tmp_path / "other", 12, 1.2, seed=3)
    once, twice, directly = (tmp_path / f"{name}{suffix}" for name in ("once", "twice", "directly"))
    calibrate(trained[kind], other, output=once)
    calibrate(once, good, output=twice)
    calibrate(trained[kind], good, output=directly)
    images = pixels_of(good)
    for first, second in zip(run(twice, images), run(directly, images), strict=True):
        assert first["pred_label"] == second["pred_label"]
        assert first["pred_score"].item() == pytest.approx(second["pred_score"].item(), abs=0.05)
    counts = [count_operations(path) for path in (trained[kind], once, twice)]
    assert counts[1] == counts[0] + (4 if suffix == ".onnx" else 8)
    assert counts[2] == counts[1]
    about = [json.loads(path.with_suffix(".json").read_text())["raw"] for path in (twice, directly)]
    assert about[0]["image_threshold"] == pytest.approx(about[1]["image_threshold"], rel=1e-4)


def count_operations(path: Path) -> int:
    if path.suffix == ".onnx":
        return len(onnx.load(path).graph.node)
    return len(openvino.Core().read_model(path).get_ops())


def test_the_description_is_brought_up_to_date_and_else_as_it_was(trained, good, tmp_path) -> None:
    calibrate(trained["openvino"], good, 0.2, output=tmp_path / "new.xml")
    old = json.loads(trained["openvino"].with_suffix(".json").read_text())
    new = json.loads((tmp_path / "new.json").read_text())
    assert new.keys() == old.keys()
    changed = {key for key in old if old[key] != new[key]}
    assert changed == {"file", "sha256", "false_alarm_rate", "promised_rate", "good_images", "raw", "good_scores"}
    assert new["sha256"] == {name: checksum(tmp_path / name) for name in ("new.xml", "new.bin")}
    assert (new["file"], new["false_alarm_rate"], new["promised_rate"], new["good_images"]) == ("new.xml", 0.2, 0.2, 19)
    scores = sorted(float(found["pred_score"].item()) for found in run(tmp_path / "new.xml", pixels_of(good)))
    np.testing.assert_allclose(new["good_scores"], scores, atol=1e-5)


def test_weights_in_a_file_of_their_own_travel_along(good, trained, tmp_path) -> None:
    calibrate(trained["split"], good, output=tmp_path / "new.onnx")
    about = json.loads((tmp_path / "new.json").read_text())
    assert set(about["sha256"]) == {"new.onnx", "new.onnx.data"}
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    calibrate(trained["onnx"], good, output=tmp_path / "whole.onnx")
    images = pixels_of(good)[:2]
    for image, whole in zip(images, run(tmp_path / "whole.onnx", images), strict=True):
        assert session.run(["pred_score"], {"input": image})[0] == pytest.approx(whole["pred_score"], abs=1e-5)


def test_exports_are_calibrated_without_pytorch(trained, good, tmp_path) -> None:
    code = """
import sys, types
from pathlib import Path
import numpy as np
from PIL import Image
root = Path(sys.argv[1])
for name in ("anomalib_daad", "anomalib_daad.training", "anomalib_daad.commands", "anomalib_daad.commands.calibrate"):
    module = types.ModuleType(name)  # in place of packages that import PyTorch themselves
    module.__path__ = [str(root.joinpath(*name.split(".")))]
    sys.modules[name] = module
from anomalib_daad.commands.calibrate.linear_scale import measure
from anomalib_daad.commands.calibrate.onnx_export import OnnxExport
from anomalib_daad.commands.calibrate.openvino_export import OpenvinoExport
from anomalib_daad.training.conformal_threshold import Rates
images = [np.asarray(Image.open(it).convert("RGB"), np.float32) / 255 for it in sorted(Path(sys.argv[2]).iterdir())]
for kind, path in ((OnnxExport, sys.argv[3]), (OpenvinoExport, sys.argv[4])):
    opened = kind(Path(path))
    opened.rescale(measure(opened.run, images, opened.limits, Rates(0.1, 0.01)).scales)
    opened.save(Path(sys.argv[5]) / Path(path).name)
assert not {"torch", "anomalib", "lightning"} & set(sys.modules)
"""
    files = (trained["onnx"], trained["openvino"])
    arguments = [FOLDER.parents[2], good, *files, tmp_path]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    for path in files:
        target = tmp_path / path.suffix[1:] / path.name
        calibrate(path, good, 0.1, 0.01, target)
        images = pixels_of(good)[:3]
        for ours, whole in zip(run(tmp_path / path.name, images), run(target, images), strict=True):
            assert ours["pred_score"] == whole["pred_score"]


@pytest.mark.parametrize("name", EXPORT_CODE)
def test_the_code_for_exports_imports_neither_pytorch_nor_anomalib(name) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"torch", "anomalib", "lightning"} & {module.partition(".")[0] for module in modules}


# Models with all their parts.


@pytest.mark.parametrize("kind", ["checkpoint", "safetensors"])
def test_a_trained_model_gets_thresholds_and_ranges_of_the_good_images(trained, tmp_path, kind) -> None:
    good = draw(tmp_path / "good", 45, 0.7)
    target = tmp_path / f"new{trained[kind].suffix}"
    calibrate(trained[kind], good, 0.1, 0.01, target)
    load = load_model if kind == "checkpoint" else load_safetensors
    old, new = load(trained[kind]), load(target)
    images = pixels_of(good)
    for_ranges, for_threshold = images[::2], images[1::2]
    with torch.no_grad():
        parts = [old.model.scores(old.pre_processor(torch.from_numpy(image))) for image in for_ranges]
        scores = [float(new.model(new.pre_processor(torch.from_numpy(it))).pred_score) for it in for_threshold]
        labels = [bool(new(torch.from_numpy(image)).pred_label) for image in for_threshold]
    reconstruction = torch.cat([part.reconstruction for part in parts])
    torch.testing.assert_close(new.model.score.reconstruction_range, torch.stack(reconstruction.aminmax()))
    post_processor = new.post_processor
    assert float(post_processor.image_threshold) == pytest.approx(float(threshold(np.sort(scores), 0.1)), rel=1e-5)
    assert (post_processor.false_alarm_rate, int(post_processor.good_images)) == (0.1, 22)
    kept = post_processor.good_scores[:22]
    torch.testing.assert_close(kept, torch.tensor(scores).sort().values, rtol=1e-4, atol=1e-4)
    assert sum(labels) == 1  # of 22: of 23 with the next one, 2 may be above
    assert post_processor.image_min <= kept[0]
    assert post_processor.image_max > post_processor.image_threshold


def test_weights_and_all_else_stay(restoration, tmp_path) -> None:
    calibrate(restoration, draw(tmp_path / "good", 41, 0.7), output=tmp_path / "new.ckpt")
    old, new = (torch.load(path, weights_only=True) for path in (restoration, tmp_path / "new.ckpt"))
    changed = {
        key.rpartition(".")[0] or key
        for key in old["state_dict"]
        if not torch.equal(old["state_dict"][key].nan_to_num(-1), new["state_dict"][key].nan_to_num(-1))
    }
    assert changed == {"model.standardization", "model.score", "post_processor"}
    assert {key for key in old if key != "state_dict" and str(old[key]) != str(new[key])} <= {
        "anomalib_post_processor_config"
    }
    model = load_model(tmp_path / "new.ckpt")
    assert int(model.model.standardization.count) == 21
    assert int(model.post_processor.good_images) == 20


def test_statistics_are_those_of_images_that_have_no_part_in_the_threshold(restoration, tmp_path) -> None:
    good = draw(tmp_path / "good", 40, 0.7)
    calibrate(restoration, good, output=tmp_path / "new.ckpt")
    old, new = load_model(restoration).model, load_model(tmp_path / "new.ckpt")
    observed = torch.cat([old.observe(new.pre_processor(torch.from_numpy(it))).detach() for it in pixels_of(good)[::2]])
    statistics = new.model.standardization
    torch.testing.assert_close(statistics.running_mean[0], observed.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics.running_var[0], observed.var(dim=0), rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        images = pixels_of(good)[1::2]
        scores = [float(new.model(new.pre_processor(torch.from_numpy(image))).pred_score) for image in images]
    torch.testing.assert_close(new.post_processor.good_scores[:20], torch.tensor(sorted(scores)), rtol=1e-3, atol=1e-3)


def test_few_images_are_each_scored_by_the_statistics_of_others(restoration, tmp_path) -> None:
    good = draw(tmp_path / "good", 20, 0.7)
    calibrate(restoration, good, output=tmp_path / "new.ckpt")
    model = load_model(tmp_path / "new.ckpt")
    assert int(model.model.standardization.count) == int(model.post_processor.good_images) == 20
    scores = []
    with torch.no_grad():
        images = [model.pre_processor(torch.from_numpy(image)) for image in pixels_of(good)]
        own = [float(model.model(image).pred_score) for image in images]
        observed = torch.cat([model.model.observe(image) for image in images])
        for number in range(10):
            model.model.relearn(observed[torch.arange(20) % 10 != number])
            scores += [float(model.model(image).pred_score) for image in images[number::10]]
    torch.testing.assert_close(
        model.post_processor.good_scores[:20], torch.tensor(sorted(scores)), rtol=1e-3, atol=1e-3
    )
    assert np.mean(scores) > np.mean(own)  # by which an image's own part in the statistics would lower its score


def test_fewer_images_still_give_thresholds_alone(restoration, good, tmp_path) -> None:
    calibrate(restoration, good, output=tmp_path / "new.ckpt")
    old, new = load_model(restoration), load_model(tmp_path / "new.ckpt")
    assert all(torch.equal(it, new.model.state_dict()[key]) for key, it in old.model.state_dict().items() if it.dim())
    scores, _ = raw(restoration, pixels_of(good))
    assert float(new.post_processor.image_threshold) == pytest.approx(float(threshold(np.sort(scores), 0.01)), rel=1e-4)


# What is said, and what is refused.


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", "calibrate", *map(str, arguments)])
    main()


def test_it_says_what_was_and_what_is_promised(trained, good, tmp_path, monkeypatch, capsys, caplog) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good, folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    shutil.copytree(trained["onnx"].parent, tmp_path / "onnx")
    with caplog.at_level(logging.WARNING):
        call(monkeypatch, tmp_path / "onnx" / trained["onnx"].name, "--good", folder)
    said = " ".join(capsys.readouterr().out.split())
    rejected = sum(bool(found["pred_label"].item()) for found in run(trained["onnx"], pixels_of(good)))
    old, new = (json.loads((tmp_path / "onnx" / name).read_text()) for name in ("model.json", "model_calibrated.json"))
    assert "Good images: 19, of which 19 decide on the threshold" in said
    assert f"Threshold before: {old['raw']['image_threshold']:.4g}, which rejects {rejected} of 19" in said
    assert f"Threshold now: {new['raw']['image_threshold']:.4g}, which rejects at most 5% on average" in said
    assert "at most 5.0% of good images are rejected, not 1%, which takes 99." in caplog.text
    assert "broken.png is left out: " in caplog.text


def test_what_is_there_is_kept_unless_told_otherwise(trained, good, tmp_path) -> None:
    target = tmp_path / "new.onnx"
    target.write_text("precious")
    with pytest.raises(ValueError, match="is there already: give another --output, or --overwrite"):
        calibrate(trained["onnx"], good, output=target)
    assert target.read_text() == "precious"
    calibrate(trained["onnx"], good, output=target, overwrite=True)
    assert run(target, pixels_of(good)[:1])
    with pytest.raises(ValueError, match="which is kept: give another --output"):
        calibrate(trained["onnx"], good, output=trained["onnx"], overwrite=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_model_that_cannot_be_written_leaves_nothing(trained, good, tmp_path, monkeypatch) -> None:
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(OSError, match="No space left"):
        calibrate(trained["openvino"], good, output=tmp_path / "new.xml")
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("model", "images", "said"),
    [
        ("gone.onnx", "good", "There is no model gone.onnx"),
        ("other.onnx", "good", "other.onnx is no export of this package, which writes other.json beside it"),
        ("changed.onnx", "good", "changed.json describes another file than"),
        ("text.ckpt", "good", "text.ckpt"),
        ("model.pt", "good", "model.pt is a pickle, whose code is fixed: calibrate its checkpoint"),
        ("model.bin", "good", "model.bin holds an OpenVINO model's weights alone: give model.xml"),
        ("unscaled", "good", "it is no export of a model of this package with thresholds"),
        ("onnx", "gone", "There is no image or folder gone"),
        ("onnx", "empty", "There are no images in empty"),
        ("onnx", "broken", "None of the 1 images in broken can be read"),
    ],
)
def test_bad_input_is_one_line(trained, good, tmp_path, monkeypatch, capsys, model, images, said) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "0.png").write_text("nothing")
    for name in ("text.ckpt", "model.pt", "model.bin", "other.onnx"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "changed.onnx").write_bytes(trained["onnx"].read_bytes() + b" ")
    about = json.loads(trained["onnx"].with_suffix(".json").read_text())
    about["sha256"] = {"changed.onnx": about["sha256"]["model.onnx"]}
    (tmp_path / "changed.json").write_text(json.dumps(about))
    with pytest.raises(SystemExit) as exit_:
        call(
            monkeypatch, trained.get(model, model), "--good", good if images == "good" else images, "--output", "o.onnx"
        )
    assert exit_.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("anomalib-daad: error:")
    assert said in line


def test_a_rate_that_is_none_is_refused(trained, good) -> None:
    with pytest.raises(ValueError, match="false_alarm_rate must be between 0 and 1"):
        calibrate(trained["onnx"], good, 1.0)

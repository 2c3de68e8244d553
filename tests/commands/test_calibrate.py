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
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from conftest import draw_part, make_model, make_restoration
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


def train(model, root: Path, folder: Path):
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=1, enable_progress_bar=False)
    engine.fit(model, datamodule=MVTecAD(root=root, category="part", train_batch_size=4, num_workers=0))
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return model.eval()


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory) -> dict[str, Path]:
    """A Daad and its exports, one of them without thresholds."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = train(make_model(), data_root, folder)
        files = {"checkpoint": folder / "model.ckpt"}
        files["safetensors"] = save_safetensors(model, folder / "model.safetensors")
        files["onnx"] = Path(model.to_onnx(folder / "onnx"))
        files["openvino"] = Path(model.to_openvino(folder / "openvino"))
        model.post_processor.enable_normalization = False
        files["unscaled"] = Path(model.to_onnx(folder / "unscaled"))
    return files


@pytest.fixture(scope="module")
def restoration(data_root, tmp_path_factory) -> Path:
    """Checkpoint of a DaadRestoration."""
    folder = tmp_path_factory.mktemp("restoration")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(make_restoration(), data_root, folder)
    return folder / "model.ckpt"


def draw(folder: Path, count: int, light: float = 1.0, seed: int = 1) -> Path:
    """Good parts under another light."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = draw_part(rng, defective=False)[0] * light
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / f"{index:03d}.png")
    return folder


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
    path = Path(load_model(trained["checkpoint"]).to_onnx(tmp_path / "split", external_data=True))
    calibrate(path, good, output=tmp_path / "new.onnx")
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
for name, folder in (("anomalib_daad", ""), ("anomalib_daad.training", "training"),
                     ("anomalib_daad.commands", "commands"), ("anomalib_daad.commands.calibrate", "commands/calibrate")):
    module = types.ModuleType(name)  # in place of packages that import PyTorch themselves
    module.__path__ = [str(root / folder)]
    sys.modules[name] = module
from anomalib_daad.commands.calibrate.linear_scale import measure
from anomalib_daad.commands.calibrate.onnx_export import OnnxExport
from anomalib_daad.commands.calibrate.openvino_export import OpenvinoExport
from anomalib_daad.commands.calibrate.outcome import Rates
images = [np.asarray(Image.open(it).convert("RGB"), np.float32) / 255 for it in sorted(Path(sys.argv[2]).iterdir())]
for kind, path in ((OnnxExport, sys.argv[3]), (OpenvinoExport, sys.argv[4])):
    opened = kind(Path(path))
    opened.rescale(measure(opened.run, images, opened.limits, Rates(0.1, 0.01)).scales)
    opened.save(Path(sys.argv[5]) / Path(path).name)
assert not {"torch", "anomalib", "lightning"} & set(sys.modules)
"""
    files = (trained["onnx"], trained["openvino"])
    arguments = [FOLDER.parents[1], good, *files, tmp_path]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    for path in files:
        calibrate(path, good, 0.1, 0.01, tmp_path / f"whole{path.suffix}")
        images = pixels_of(good)[:3]
        for ours, whole in zip(
            run(tmp_path / path.name, images), run(tmp_path / f"whole{path.suffix}", images), strict=True
        ):
            assert ours["pred_score"] == whole["pred_score"]


@pytest.mark.parametrize("name", EXPORT_CODE)
def test_the_code_for_exports_imports_neither_pytorch_nor_anomalib(name) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"torch", "anomalib", "lightning"} & {module.partition(".")[0] for module in modules}

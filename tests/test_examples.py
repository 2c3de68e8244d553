# SPDX-License-Identifier: Apache-2.0

"""Programs without this package judge as the model does, and model.json tells them the truth."""

import ast
import csv
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from PIL import Image

from anomalib_daad import Daad
from anomalib_daad.training.export_description import write_description

onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

EXAMPLES = Path(__file__).parents[1] / "examples"
WHEEL = Path(openvino.__file__).parent
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
THREADS = 8


@pytest.fixture(scope="module")
def exported(daad, data_root, tmp_path_factory) -> SimpleNamespace:
    """A trained model, its exports, and what it says of the test images and of one of another size."""
    root = tmp_path_factory.mktemp("exported")
    model = Daad.load_from_checkpoint(daad.checkpoint)
    datamodule = MVTecAD(data_root, "part", train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine = Engine(default_root_dir=root / "results", accelerator="cpu", enable_progress_bar=False)
    expected = {}
    for batch in engine.predict(model, datamodule=datamodule):
        for path, score, label in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
            expected[Path(path)] = (float(score), bool(label))
    odd = root / "larger, with a comma.png"
    with Image.open(next(path for path in expected if "bar" in path.parts)) as image:
        image.resize((90, 70)).save(odd)
    judged = model.eval()(tensor(odd))
    expected[odd] = (float(judged.pred_score), bool(judged.pred_label))
    return SimpleNamespace(model=model, onnx=daad.onnx, xml=daad.openvino, expected=expected, odd=odd)


def tensor(path: Path) -> torch.Tensor:
    """An image as exports take it, read by other means than the examples'."""
    with Image.open(path) as image:
        width, height = image.size
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return (pixels.reshape(1, height, width, 3).permute(0, 3, 1, 2) / 255).contiguous()


def describe(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run([str(it) for it in command], capture_output=True, text=True, timeout=120, check=False)


def judge(*command) -> list[dict[str, str]]:
    """What an example prints, a row for an image."""
    result = run(*command)
    assert result.returncode == 0, result.stderr
    return list(csv.DictReader(result.stdout.splitlines(), delimiter="\t"))


def judge_onnx(model: Path, *images: Path) -> list[dict[str, str]]:
    return judge(sys.executable, EXAMPLES / "judge_onnx.py", model, *images)


@pytest.fixture(scope="module")
def judge_openvino(tmp_path_factory) -> Path:
    """The C++ example, built against the wheel as its README says."""
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("cmake and a C++ compiler are needed to build the example")
    if not (WHEEL / "cmake" / "OpenVINOConfig.cmake").is_file():
        pytest.skip("this openvino wheel has no CMake files")
    build = tmp_path_factory.mktemp("build")
    for command in (("-S", EXAMPLES, "-B", build, f"-DOpenVINO_DIR={WHEEL / 'cmake'}"), ("--build", build)):
        result = run("cmake", *command)
        assert result.returncode == 0, result.stdout + result.stderr
    return build / "judge_openvino"


def as_ppm(paths, folder: Path) -> list[Path]:
    """Copies of images as the C++ example reads them."""
    copies = [folder / f"{number} {path.stem}.ppm" for number, path in enumerate(paths)]
    for path, copy in zip(paths, copies, strict=True):
        with Image.open(path) as image:
            image.convert("RGB").save(copy)
    return copies


def check_rows(rows: list[dict[str, str]], files: list[Path], exported: SimpleNamespace, tolerance: float) -> None:
    """Compare each row with what the model itself says."""
    assert [row["file"] for row in rows] == [str(it) for it in files]
    post_processor = exported.model.post_processor
    for row, (path, (score, label)) in zip(rows, exported.expected.items(), strict=True):
        assert float(row["score"]) == pytest.approx(score, abs=tolerance), path
        assert row["verdict"] == ("defective" if label else "good"), path
        image = tensor(path)
        with torch.no_grad():
            network = exported.model.model(exported.model.pre_processor(image))
        strongest = network.anomaly_map.squeeze() >= network.anomaly_map.max() - tolerance
        rows_, columns = network.anomaly_map.shape[-2:]
        places = {
            (int((x + 0.5) * image.shape[3] / columns), int((y + 0.5) * image.shape[2] / rows_))
            for y, x in strongest.nonzero().tolist()
        }
        assert len(places) < 9
        assert (int(row["x"]), int(row["y"])) in places, path
        around = network.pred_score + tolerance * torch.tensor([1.0, -1.0])
        least, most = post_processor.p_value(around).tolist()
        assert least - 1e-4 <= float(row["p_value"]) <= most + 1e-4, path
        if 0 < score < 1:
            width = float(post_processor.image_max - post_processor.image_min)
            assert float(row["raw_score"]) == pytest.approx(float(network.pred_score), abs=tolerance * (1 + width))


def test_onnx_example(exported) -> None:
    files = list(exported.expected)
    check_rows(judge_onnx(exported.onnx, *files), files, exported, 1e-4)
    assert {label for _, label in exported.expected.values()} == {True, False}


def test_openvino_example(exported, judge_openvino, tmp_path) -> None:
    files = as_ppm(exported.expected, tmp_path)
    check_rows(judge(judge_openvino, exported.xml, *files), files, exported, 1e-4)


def test_onnx_example_needs_nothing_of_training() -> None:
    tree = ast.walk(ast.parse((EXAMPLES / "judge_onnx.py").read_text(encoding="utf-8")))
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) for node in tree if imports(node)
    }
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def imports(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_onnx_example_refuses_in_one_sentence(exported, tmp_path) -> None:
    good = next(iter(exported.expected))
    fixed = Path(shutil.copytree(exported.onnx.parent, tmp_path / "fixed")) / exported.onnx.name
    write_description(exported.model, [fixed], (48, 40))
    assert len(judge_onnx(fixed, good)) == 1
    changed = Path(shutil.copytree(exported.onnx.parent, tmp_path / "changed")) / exported.onnx.name
    changed.write_bytes(changed.read_bytes() + b"\0")
    unknown = Path(shutil.copytree(exported.onnx.parent, tmp_path / "unknown")) / exported.onnx.name
    unknown.with_suffix(".json").write_text(json.dumps({**describe(unknown), "raw": None}), encoding="utf-8")
    newer = Path(shutil.copytree(exported.onnx.parent, tmp_path / "newer")) / exported.onnx.name
    newer.with_suffix(".json").write_text(json.dumps({**describe(newer), "format": 2}), encoding="utf-8")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((48, 40), 4000, np.uint16)).save(deep)
    for model, image, sentence in (
        (fixed, exported.odd, "is not of 40 x 48 pixels, which the export is fixed to."),
        (changed, good, "model.onnx is not the file that model.json describes"),
        (unknown, good, "The export knows no threshold"),
        (newer, good, "of a format that this program does not know"),
        (exported.onnx, deep, "more than 8 bits"),
    ):
        result = run(sys.executable, EXAMPLES / "judge_onnx.py", model, image)
        assert result.returncode == 1
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_openvino_example_refuses_in_one_sentence(exported, judge_openvino, tmp_path) -> None:
    good, odd, *_ = as_ppm([next(iter(exported.expected)), exported.odd], tmp_path)
    fixed = tmp_path / "fixed" / "model.xml"
    network = openvino.Core().read_model(exported.xml)
    network.reshape([1, 3, 48, 40])
    openvino.save_model(network, fixed, compress_to_fp16=False)
    shutil.copy(exported.xml.with_suffix(".json"), fixed.with_suffix(".json"))
    assert len(judge(judge_openvino, fixed, good)) == 1
    short = tmp_path / "short.ppm"
    short.write_bytes(good.read_bytes()[:-1])
    unknown = Path(shutil.copytree(exported.xml.parent, tmp_path / "unknown")) / exported.xml.name
    unknown.with_suffix(".json").write_text(json.dumps({**describe(unknown), "raw": None}), encoding="utf-8")
    newer = Path(shutil.copytree(exported.xml.parent, tmp_path / "newer")) / exported.xml.name
    newer.with_suffix(".json").write_text(json.dumps({**describe(newer), "format": 2}), encoding="utf-8")
    for arguments, sentence in (
        ((), "Usage:"),
        ((fixed, odd), "is not of the size that the export is fixed to."),
        ((exported.xml, exported.odd), "is no binary PPM file"),
        ((exported.xml, short), "ends too early."),
        ((exported.xml, tmp_path / "none.ppm"), "none.ppm"),
        ((tmp_path / "none.xml", good), "none.json cannot be read."),
        ((unknown, good), "The export knows no threshold"),
        ((newer, good), "of a format that this program does not know"),
    ):
        result = run(judge_openvino, *arguments)
        assert result.returncode == 1
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 1


def images_of_one_size(exported) -> np.ndarray:
    return np.concatenate([tensor(path).numpy() for path in exported.expected if path != exported.odd])


def test_a_batch_is_judged_as_its_images(exported) -> None:
    images = images_of_one_size(exported)
    session = onnxruntime.InferenceSession(exported.onnx)
    compiled = openvino.compile_model(exported.xml, "CPU", F32)
    names = [output.name for output in session.get_outputs()]
    for judge_batch in (
        lambda batch: dict(zip(names, session.run(None, {"input": batch}), strict=True)),
        lambda batch: {name: compiled(batch)[name] for name in names},
    ):
        together = judge_batch(images)
        for index in range(len(images)):
            for name, value in judge_batch(images[index : index + 1]).items():
                if value.dtype == bool:
                    assert np.mean(value[0] != together[name][index]) < 0.002  # pixels on the threshold
                else:
                    np.testing.assert_allclose(value[0], together[name][index], atol=1e-5, err_msg=name)


def test_threads_share_a_session_and_a_compiled_model(exported) -> None:
    images = images_of_one_size(exported)[:, None]
    session = onnxruntime.InferenceSession(exported.onnx)
    compiled = openvino.compile_model(exported.xml, "CPU", F32)

    def judge_all(shift: int) -> list[np.ndarray]:
        request = compiled.create_infer_request()
        found = np.empty((2, len(images)), np.float32)
        for index in np.roll(np.arange(len(images)), shift):
            found[0, index] = session.run(["pred_score"], {"input": images[index]})[0][0]
            found[1, index] = request.infer([images[index]])["pred_score"][0]
        return found

    alone = judge_all(0)
    assert np.ptp(alone[0]) > 0.01
    with ThreadPoolExecutor(THREADS) as threads:
        for found in threads.map(judge_all, range(THREADS)):
            np.testing.assert_allclose(found, alone, atol=1e-6)


def test_the_description_tells_the_truth(exported, tmp_path) -> None:
    post_processor = exported.model.post_processor
    torch_export = exported.model.to_torch(tmp_path)
    for path, count in ((exported.onnx, 1), (exported.xml, 2), (torch_export, 1)):
        known = describe(path)
        assert known["file"] == path.name
        assert len(known["sha256"]) == count
        for name, digest in known["sha256"].items():
            assert hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() == digest
        assert known["model"] == "Daad"
        assert known["network_size"] == [32, 32]
        assert known["input"] == {
            "layout": "NCHW", "colours": "RGB", "type": "float32", "range": [0, 1], "height": None, "width": None,
        }  # fmt: skip
        assert known["image_threshold"] == known["pixel_threshold"] == 0.5
        assert known["good_images"] == len(known["good_scores"]) == 5
        assert known["promised_rate"] == pytest.approx(1 / 6)
        assert known["false_alarm_rate"] == 0.01
        kept = post_processor.good_scores[:5]
        assert known["good_scores"] == pytest.approx(post_processor.normalize_scores(kept).tolist(), abs=1e-7)
        p_value = runpy.run_path(str(EXAMPLES / "judge_onnx.py"))["p_value"]
        assert [p_value(it, known) for it in known["good_scores"]] == pytest.approx(
            post_processor.p_value(kept).tolist()
        )
    session = onnxruntime.InferenceSession(exported.onnx)
    assert [it.name for it in session.get_outputs()] == list(describe(exported.onnx)["outputs"])

# SPDX-License-Identifier: Apache-2.0

"""Exports and inferencers give the scores of Engine.predict."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from conftest import make_model, make_restoration
from scipy.stats import spearmanr

from anomalib_daad import Daad
from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.models.daad_restoration.placement import KNOWN

onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def made() -> dict:
    """What was trained, and exported: both take seconds, and serve several tests."""
    return {}


@pytest.fixture(scope="module", params=[make_model, make_restoration], ids=["daad_plus", "restoration"])
def trained(request, made, daad, data_root, tmp_path_factory):
    """Engine, trained model and datamodule; the images (48x40) are not of the model's size (32x32 or 64x64)."""
    if request.param not in made:
        datamodule = MVTecAD(data_root, "part", train_batch_size=4, eval_batch_size=4, num_workers=0)
        output = tmp_path_factory.mktemp("results")
        engine = Engine(default_root_dir=output, accelerator="cpu", max_epochs=3, enable_progress_bar=False)
        if request.param is make_model:
            model = Daad.load_from_checkpoint(daad.checkpoint)
        else:
            model = make_restoration()
            engine.fit(model, datamodule=datamodule)
        made[request.param] = engine, model, datamodule
    return made[request.param]


@pytest.fixture
def onnx_path(trained, made, daad, tmp_path_factory) -> Path:
    """The model's export for images of any size."""
    engine, model, _ = trained
    if isinstance(model, Daad):
        return daad.onnx
    if "onnx" not in made:
        made["onnx"] = engine.export(model, ExportType.ONNX, export_root=tmp_path_factory.mktemp("exported"))
    return made["onnx"]


def predict(engine, model, datamodule) -> dict[str, tuple[float, np.ndarray, bool]]:
    """Score, map and label of every test image by its path."""
    predictions = {}
    for batch in engine.predict(model, datamodule=datamodule):
        for path, score, anomaly_map, label in zip(
            batch.image_path, batch.pred_score, batch.anomaly_map, batch.pred_label, strict=True
        ):
            predictions[path] = (float(score), anomaly_map.squeeze().numpy(), bool(label))
    return predictions


def assert_agree(expected, prediction, path: str) -> None:
    score, anomaly_map, label = expected[path]
    assert float(np.asarray(prediction.pred_score).squeeze()) == pytest.approx(score, abs=1e-4), path
    np.testing.assert_allclose(np.asarray(prediction.anomaly_map).squeeze(), anomaly_map, atol=1e-3)
    if abs(score - 0.5) > 1e-4:  # the image that set the threshold lies on it
        assert bool(np.asarray(prediction.pred_label).squeeze()) == label


def test_torch_inferencer(trained, monkeypatch) -> None:
    engine, model, datamodule = trained
    expected = predict(engine, model, datamodule)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(engine.export(model, ExportType.TORCH), device="cpu")
    for path in expected:
        assert_agree(expected, inferencer.predict(path), path)


def check_onnx_and_openvino(trained, onnx_path: Path) -> OpenVINOInferencer:
    engine, model, datamodule = trained
    expected = predict(engine, model, datamodule)
    session = onnxruntime.InferenceSession(str(onnx_path))
    names = [output.name for output in session.get_outputs()]
    images = np.stack([read_image(path, as_tensor=True).numpy() for path in expected])
    outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    np.testing.assert_allclose(outputs["pred_score"], [score for score, _, _ in expected.values()], atol=1e-4)

    inferencer = OpenVINOInferencer(onnx_path, device="CPU", config=F32)
    for image_path in expected:
        assert_agree(expected, inferencer.predict(image_path), image_path)
    return inferencer


def test_onnx_and_openvino_take_any_image_size(trained, onnx_path) -> None:
    _, model, _ = trained
    inferencer = check_onnx_and_openvino(trained, onnx_path)
    model.eval()
    for size in ((32, 32), (20, 90), (301, 77)):
        image = torch.rand(1, 3, *size)
        score = float(inferencer.predict(image).pred_score.squeeze())
        assert score == pytest.approx(float(model(image).pred_score), abs=1e-4)


@pytest.mark.parametrize("trained", [make_restoration], indirect=True)
def test_kernels_are_constants_and_the_export_quantises(trained, onnx_path, tmp_path) -> None:
    """What tools that quantise or compile a graph ask for: every weight of a convolution is an initializer."""
    engine, model, datamodule = trained
    graph = onnx.load(onnx_path).graph
    constants = {it.name for it in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in {"Conv", "ConvTranspose"}]
    assert len(convolutions) > 6
    assert [node.name for node in convolutions if node.input[1] not in constants] == []

    images = np.stack([item.image.numpy() for item in datamodule.test_data])

    class Reader(CalibrationDataReader):
        batches = iter([images[:4], images[4:8]])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    quantize_dynamic(onnx_path, tmp_path / "dynamic.onnx", weight_type=QuantType.QUInt8)
    quantize_static(onnx_path, tmp_path / "static.onnx", Reader())
    expected = [score for score, _, _ in predict(engine, model, datamodule).values()]
    for name in ("dynamic", "static"):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        names = [output.name for output in session.get_outputs()]
        scores = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))["pred_score"]
        assert np.isfinite(scores).all()
        assert (tmp_path / f"{name}.onnx").stat().st_size < onnx_path.stat().st_size
        assert scores.shape == (len(expected),)


@pytest.mark.parametrize("trained", [make_model], indirect=True)
def test_onnx_and_openvino_of_a_fixed_image_size(trained, tmp_path, caplog) -> None:
    engine, model, _ = trained
    caplog.set_level(logging.INFO)
    path = engine.export(model, ExportType.ONNX, input_size=(48, 40), export_root=tmp_path)
    assert sorted(it.name for it in path.parent.iterdir()) == ["model.json", "model.onnx"]
    assert len(caplog.records) < 40
    assert logging.getLogger("onnxscript").level == logging.NOTSET
    check_onnx_and_openvino(trained, path)
    taken = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["input"]
    assert (taken["height"], taken["width"]) == (48, 40)


@pytest.mark.parametrize("trained", [make_restoration], indirect=True)
def test_exports_search_for_the_place_of_parts(trained, tmp_path) -> None:
    engine, known, datamodule = trained
    model = make_restoration(placement_radius=2)  # the fewest steps that follow one another: each takes seconds
    model.load_state_dict(known.state_dict())
    network = model.model
    assert network.registration.is_known  # as it is in the other exports here
    network.registration.forget()
    network.placement.growth.fill_(KNOWN)  # more than so short a training learns
    images = torch.stack([batch.image[0] for batch in datamodule.test_dataloader()])
    rows = network.eval().place(model.pre_processor(images)).rows
    assert rows.any()
    assert network.standardization.count > 0
    check_onnx_and_openvino((engine, model, datamodule), engine.export(model, ExportType.ONNX, export_root=tmp_path))


@pytest.mark.parametrize(
    ("trained", "compression", "tolerance"),
    [
        (make_model, CompressionType.FP16, 0.01),
        (make_model, CompressionType.INT8, 0.15),
        (make_restoration, CompressionType.INT8_PTQ, 0.3),
    ],
    indirect=["trained"],
)
def test_openvino_exports_are_near(trained, compression, tolerance, onnx_path, monkeypatch) -> None:
    engine, model, datamodule = trained
    expected = predict(engine, model, datamodule)
    monkeypatch.setattr(model, "to_onnx", lambda *_, **__: onnx_path)  # the graph that any OpenVINO export begins with
    path = engine.export(model, ExportType.OPENVINO, compression_type=compression, datamodule=datamodule)
    inferencer = OpenVINOInferencer(path, device="CPU", config=F32)
    scores = [float(inferencer.predict(image).pred_score.squeeze()) for image in expected]
    reference = [score for score, _, _ in expected.values()]
    np.testing.assert_allclose(scores, reference, atol=tolerance)
    assert spearmanr(scores, reference)[0] > 0.95


def test_memory_reads_the_same_items_in_bfloat16() -> None:
    """OpenVINO's default on CPUs with bfloat16 instructions; elsewhere it computes in float32 all the same."""
    memory = BlockMemory((32, 16, 16), (4, 4, 1), 500, drop_width=1e-3).eval()
    features = torch.randn(4, 32, 16, 16)
    program = torch.export.export(memory, (features,))
    compiled = openvino.compile_model(openvino.convert_model(program), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    with torch.no_grad():
        expected = memory(features)
    error = (torch.from_numpy(compiled(features.numpy())[0]) - expected).norm() / expected.norm()
    assert error < 0.05


def test_exports_agree_on_real_images(real_data, make_engine, monkeypatch) -> None:
    datamodule = MVTecAD(real_data, "bottle", train_batch_size=8, num_workers=0)
    model = Daad(image_size=(64, 64), division_rates=(4, 4, 1), num_items=100, base_channels=16, seed=0)
    engine = make_engine(max_steps=60, max_epochs=-1, val_check_interval=20, check_val_every_n_epoch=None)
    engine.fit(model, datamodule=datamodule)
    expected = predict(engine, model, datamodule)

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    onnx_path = engine.export(model, ExportType.ONNX)

    def check(inferencer: TorchInferencer | OpenVINOInferencer) -> None:
        for path in list(expected)[::4]:
            assert_agree(expected, inferencer.predict(path), path)

    # One at a time: of two OpenVINO models that go in the order in which they came, the second leaves a signal stack
    # that is freed, and the next signal handler ends the process.
    check(TorchInferencer(engine.export(model, ExportType.TORCH), device="cpu"))
    check(OpenVINOInferencer(engine.export(model, ExportType.OPENVINO), device="CPU", config=F32))
    check(OpenVINOInferencer(onnx_path, device="CPU", config=F32))
    session = onnxruntime.InferenceSession(str(onnx_path))
    for path in list(expected)[::4]:
        image = read_image(path, as_tensor=True)[None].numpy()
        score = session.run(["pred_score"], {session.get_inputs()[0].name: image})[0]
        assert float(score.squeeze()) == pytest.approx(expected[path][0], abs=1e-4)

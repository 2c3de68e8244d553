# SPDX-License-Identifier: Apache-2.0

"""Exports and inferencers give the scores of Engine.predict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from conftest import make_model
from sklearn.metrics import roc_auc_score

from anomalib_daad import Daad

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(params=[True, False], ids=["daad_plus", "daad"])
def trained(request, make_datamodule, make_engine):
    """Engine, trained model and datamodule; the images (48x40) are not of the model's size (32x32)."""
    model, datamodule, engine = make_model(adversarial=request.param), make_datamodule(), make_engine(max_epochs=3)
    engine.fit(model, datamodule=datamodule)
    return engine, model, datamodule


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


@pytest.mark.parametrize("input_size", [None, (48, 40)])
def test_onnx_and_openvino(trained, input_size) -> None:
    engine, model, datamodule = trained
    expected = predict(engine, model, datamodule)

    onnx_path = engine.export(model, ExportType.ONNX, input_size=input_size)
    session = onnxruntime.InferenceSession(str(onnx_path))
    names = [output.name for output in session.get_outputs()]
    images = np.stack([read_image(path, as_tensor=True).numpy() for path in expected])
    outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    np.testing.assert_allclose(outputs["pred_score"], [score for score, _, _ in expected.values()], atol=1e-4)

    xml_path = engine.export(model, ExportType.OPENVINO, input_size=input_size)
    for path in (xml_path, onnx_path):
        inferencer = OpenVINOInferencer(path, device="CPU", config=F32)
        for image_path in expected:
            assert_agree(expected, inferencer.predict(image_path), image_path)


def test_exported_model_takes_any_image_size(trained) -> None:
    engine, model, _ = trained
    inferencer = OpenVINOInferencer(engine.export(model, ExportType.OPENVINO), device="CPU", config=F32)
    model.eval()
    for size in ((32, 32), (20, 90), (301, 77)):
        image = torch.rand(1, 3, *size)
        score = float(inferencer.predict(image).pred_score.squeeze())
        assert score == pytest.approx(float(model(image).pred_score), abs=1e-4)


@pytest.mark.parametrize("compression", [CompressionType.FP16, CompressionType.INT8, CompressionType.INT8_PTQ])
def test_compressed_exports_keep_the_ranking(trained, compression) -> None:
    engine, model, datamodule = trained
    expected = predict(engine, model, datamodule)
    path = engine.export(model, ExportType.OPENVINO, compression_type=compression, datamodule=datamodule)
    inferencer = OpenVINOInferencer(path, device="CPU", config=F32)
    scores = [float(inferencer.predict(image).pred_score.squeeze()) for image in expected]
    np.testing.assert_allclose(scores, [score for score, _, _ in expected.values()], atol=0.15)


def test_exports_agree_on_real_images(real_data, make_engine, monkeypatch) -> None:
    from anomalib.data import MVTecAD

    datamodule = MVTecAD(real_data, "bottle", train_batch_size=8, num_workers=0)
    model = Daad(image_size=(64, 64), division_rates=(4, 4, 1), num_items=100, base_channels=16, seed=0)
    engine = make_engine(max_steps=60, max_epochs=-1, val_check_interval=20, check_val_every_n_epoch=None)
    engine.fit(model, datamodule=datamodule)
    expected = predict(engine, model, datamodule)

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    onnx_path = engine.export(model, ExportType.ONNX)
    inferencers = [
        TorchInferencer(engine.export(model, ExportType.TORCH), device="cpu"),
        OpenVINOInferencer(engine.export(model, ExportType.OPENVINO), device="CPU", config=F32),
        OpenVINOInferencer(onnx_path, device="CPU", config=F32),
    ]
    session = onnxruntime.InferenceSession(str(onnx_path))
    for path in list(expected)[::4]:
        for inferencer in inferencers:
            assert_agree(expected, inferencer.predict(path), path)
        image = read_image(path, as_tensor=True)[None].numpy()
        score = session.run(["pred_score"], {session.get_inputs()[0].name: image})[0]
        assert float(score.squeeze()) == pytest.approx(expected[path][0], abs=1e-4)

    quantized = engine.export(
        model, ExportType.OPENVINO, compression_type=CompressionType.INT8_PTQ, datamodule=datamodule
    )
    inferencer = OpenVINOInferencer(quantized, device="CPU", config=F32)
    scores = [float(inferencer.predict(path).pred_score.squeeze()) for path in expected]
    labels = [Path(path).parent.name != "good" for path in expected]
    auroc = roc_auc_score(labels, [score for score, _, _ in expected.values()])
    assert roc_auc_score(labels, scores) == pytest.approx(auroc, abs=0.01)

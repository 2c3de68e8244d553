# SPDX-License-Identifier: Apache-2.0

"""The calls of anomalib's studio: a model by its name alone, a folder of images, early stopping, an export."""

import cv2
import numpy as np
import pytest
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import get_model
from conftest import draw_part
from lightning.pytorch.callbacks import EarlyStopping

from anomalib_daad import DaadRestoration

pytest.importorskip("openvino")


def test_studio_trains_exports_and_predicts(tmp_path) -> None:
    rng = np.random.default_rng(0)
    normal = tmp_path / "dataset"
    normal.mkdir()
    for index in range(10):
        cv2.imwrite(str(normal / f"{index:02d}.png"), cv2.resize(draw_part(rng, defective=False)[0], (120, 96)))
    datamodule = Folder(
        name="project",
        root=tmp_path,
        normal_dir="dataset",
        val_split_mode="synthetic",
        train_batch_size=4,
        num_workers=0,
        seed=0,
    )
    assert get_model("daad_restoration").hparams.base_channels == 64
    model = get_model("daad_restoration", base_channels=8)  # a quarter of the time
    assert isinstance(model, DaadRestoration)
    assert model.model.image_size == (256, 256)
    stopping = EarlyStopping(monitor="pixel_AUROC", mode="max", patience=5)
    engine = Engine(
        default_root_dir=tmp_path / "studio",
        logger=False,
        callbacks=[stopping],
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        enable_progress_bar=False,
    )
    engine.train(model=model, datamodule=datamodule)
    assert engine.trainer.current_epoch == 2
    assert 0 < stopping.best_score <= 1
    path = engine.export(model=model, export_type=ExportType.OPENVINO, export_root=tmp_path / "exported")
    inferencer = OpenVINOInferencer(path, device="CPU")
    for defective in (False, True):
        frame = cv2.resize(draw_part(rng, defective)[0], (120, 96))
        prediction = inferencer.predict(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        assert 0 <= float(np.asarray(prediction.pred_score).squeeze()) <= 1
        assert np.isfinite(np.asarray(prediction.anomaly_map)).all()
        assert np.asarray(prediction.anomaly_map).squeeze().shape in {(256, 256), (96, 120)}

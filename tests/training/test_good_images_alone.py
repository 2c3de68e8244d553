# SPDX-License-Identifier: Apache-2.0

"""A test without defects says what it can say, and no AUROC of 0.0."""

import re
import shutil

import pytest
from anomalib.data import Folder
from conftest import make_model, make_restoration


@pytest.fixture
def good_alone(data_root, tmp_path):
    shutil.copytree(data_root / "part" / "train" / "good", tmp_path / "parts" / "good")
    return Folder("parts", root=tmp_path / "parts", normal_dir="good", train_batch_size=4, num_workers=0)


@pytest.mark.parametrize("make", [make_model, make_restoration])
def test_measures_of_defects_are_left_out(make, good_alone, make_engine, caplog) -> None:
    model, engine = make(), make_engine(max_epochs=1)
    engine.fit(model, datamodule=good_alone)
    (result,) = engine.test(model, datamodule=good_alone)
    assert not result
    (said,) = [record.message for record in caplog.records if "no defective image" in record.message]
    rejected, count = map(int, re.search(r"rejects (\d+) of (\d+) good images", said).groups())
    assert count == len(good_alone.test_data)
    labels = [bool(label) for batch in engine.predict(model, datamodule=good_alone) for label in batch.pred_label]
    assert rejected == sum(labels)


def test_measures_come_back_after_a_test_that_was_cut_short(
    good_alone, make_datamodule, make_engine, monkeypatch
) -> None:
    model, engine = make_model(), make_engine(max_epochs=1)
    engine.fit(model, datamodule=good_alone)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "test_step", lambda *_: (_ for _ in ()).throw(RuntimeError("cut short")))
        with pytest.raises(RuntimeError, match="cut short"):
            engine.test(model, datamodule=good_alone)
    assert "image_AUROC" in engine.test(model, datamodule=make_datamodule())[0]


def test_loaders_with_defects_after_a_fit_on_good_images_are_measured(good_alone, make_datamodule, make_engine) -> None:
    model, engine = make_model(), make_engine(max_epochs=1)
    engine.fit(model, datamodule=good_alone)
    defective = make_datamodule()
    defective.setup()
    assert "image_AUROC" in engine.test(model, dataloaders=defective.test_dataloader())[0]


def test_they_are_back_where_there_are_defects(good_alone, make_datamodule, make_engine, caplog) -> None:
    model, engine = make_model(), make_engine(max_epochs=1)
    engine.fit(model, datamodule=good_alone)
    engine.test(model, datamodule=good_alone)
    caplog.clear()
    (result,) = engine.test(model, datamodule=make_datamodule())
    assert {"image_AUROC", "pixel_AUROC"} <= result.keys()
    assert "no defective image" not in caplog.text

# SPDX-License-Identifier: Apache-2.0

"""Image files of every kind: read as they are, or refused in one sentence that names them."""

import logging
import os
import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
from anomalib.data import Folder, PredictDataset
from conftest import as_if_trained, make_model
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_daad.data.image_check import reading_fault

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (48, 40), dtype=np.uint8)
RGB = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)


def save_rotated(path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.fromarray(RGB).save(path, exif=exif)


def truncate(path, kind: str) -> None:
    Image.fromarray(RGB).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


READABLE = {
    "gray.png": lambda path: Image.fromarray(GRAY).save(path),
    "rgba.png": lambda path: Image.fromarray(RGB).convert("RGBA").save(path),
    "cmyk.jpg": lambda path: Image.fromarray(RGB).convert("CMYK").save(path),
    "palette.png": lambda path: Image.fromarray(RGB).convert("P").save(path),
    "one_bit.png": lambda path: Image.fromarray(GRAY).convert("1").save(path),
    "rotated.jpg": save_rotated,
    "rgb16.tiff": lambda path: tifffile.imwrite(path, RGB.astype(np.uint16) * 257, photometric="rgb"),
    "1x1.png": lambda path: Image.fromarray(RGB[:1, :1]).save(path),
    "2000x1.png": lambda path: Image.new("RGB", (2000, 1), "red").save(path),
    "1x2000.png": lambda path: Image.new("RGB", (1, 2000), "red").save(path),
    "Prüfling 検査 \N{HAMMER}.png": lambda path: Image.fromarray(RGB).save(path),
    f"{'long' * 60}.png": lambda path: Image.fromarray(RGB).save(path),
}
FAULTY = {
    "truncated.png": (lambda path: truncate(path, "png"), "truncated"),
    "truncated.jpg": (lambda path: truncate(path, "jpeg"), "truncated"),
    "truncated.tif": (lambda path: truncate(path, "tiff"), "."),
    "empty.png": (lambda path: path.write_bytes(b""), "cannot identify image file"),
    "text.png": (lambda path: path.write_text("not an image"), "cannot identify image file"),
    "gray16.png": (lambda path: Image.fromarray(GRAY.astype(np.uint16) * 257).save(path), "I;16.*read as white"),
    "gray16.tiff": (lambda path: tifffile.imwrite(path, GRAY.astype(np.uint16) * 257), "I;16.*read as white"),
    "gray32.tiff": (lambda path: tifffile.imwrite(path, GRAY.astype(np.int32) * 257), "mode I.*read as white"),
    "float.tiff": (lambda path: tifffile.imwrite(path, GRAY / np.float32(255)), "mode F.*read as white"),
}


@pytest.fixture
def folder(data_root, tmp_path):
    """A folder of its own with four good images, and the files of a table written into it."""
    path = tmp_path / "images"
    path.mkdir()
    for index in range(4):
        shutil.copy(data_root / f"part/train/good/{index:03d}.png", path)
    return path


def write(folder, table) -> None:
    for name, writer in table.items():
        (writer[0] if isinstance(writer, tuple) else writer)(folder / name)


def test_what_is_found_of_each_kind(tmp_path) -> None:
    write(tmp_path, {**READABLE, **FAULTY})
    for name in READABLE:
        assert reading_fault(tmp_path / name) is None, name
    for name, (_, words) in FAULTY.items():
        fault = reading_fault(tmp_path / name)
        assert fault is not None, name
        assert re.search(words, fault), fault
        assert "\n" not in fault
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "symbolic links" in reading_fault(tmp_path / "loop.png")


def test_rgb_of_16_bits_keeps_its_high_byte(tmp_path) -> None:
    """Only gray images are clipped: Pillow drops the low byte of colour ones."""
    write(tmp_path, {"rgb16.tiff": READABLE["rgb16.tiff"]})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "rgb16.tiff").convert("RGB")), RGB)


def test_a_folder_is_predicted_but_for_its_bad_files(folder, make_engine, caplog) -> None:
    write(folder, {**READABLE, **FAULTY})
    with caplog.at_level(logging.WARNING, logger="anomalib_daad.data.image_check"):
        batches = make_engine().predict(as_if_trained(make_model(visualizer=False)), data_path=folder)
    predicted = {os.path.basename(path) for batch in batches for path in batch.image_path}  # noqa: PTH119
    assert predicted == {f"{index:03d}.png" for index in range(4)} | READABLE.keys()
    assert all(batch.pred_score.isfinite().all() for batch in batches)
    said = [record.getMessage() for record in caplog.records]
    assert all(any(f"{name} is not predicted: " in line for line in said) for name in FAULTY)
    assert f"{len(FAULTY)} of {len(FAULTY) + len(predicted)} images cannot be read and are not predicted." in said


def test_a_folder_without_a_readable_file_is_refused(tmp_path, make_engine) -> None:
    write(tmp_path, FAULTY)
    loader = DataLoader(PredictDataset(tmp_path))
    with pytest.raises(ValueError, match=r"9 of 9 images cannot be read, the first is .*empty.png \(cannot identify"):
        make_engine().predict(as_if_trained(make_model()), dataloaders=loader)


@pytest.mark.parametrize("name", FAULTY)
def test_training_refuses_a_bad_file(folder, make_engine, name) -> None:
    write(folder, {name: FAULTY[name]})
    datamodule = Folder("part", normal_dir=folder, num_workers=0, test_split_mode="none", val_split_mode="none")
    with pytest.raises(ValueError, match=rf"1 of 5 images cannot be read, the first is .*{name} \(.*{FAULTY[name][1]}"):
        make_engine(max_epochs=1, limit_val_batches=0).fit(make_model(), datamodule=datamodule)


def test_training_reads_the_others(folder, make_engine) -> None:
    write(folder, READABLE)
    settings = {"num_workers": 0, "test_split_mode": "none", "val_split_mode": "none", "train_batch_size": 4}
    model = make_model()
    make_engine(max_epochs=1, limit_val_batches=0).fit(model, datamodule=Folder("part", normal_dir=folder, **settings))
    assert model.model.score.reconstruction_range.isfinite().all()


def test_validation_and_test_refuse_it_and_a_prediction_leaves_it_out(make_engine, data_root, tmp_path, caplog) -> None:
    root = shutil.copytree(data_root / "part", tmp_path / "part")
    truncate(root / "test/good/001.png", "png")
    directories = {"normal_dir": "train/good", "abnormal_dir": "test/bar", "normal_test_dir": "test/good"}
    datamodule = Folder("part", root=root, **directories, num_workers=0, val_split_mode="same_as_test")
    sentence = r"1 of 11 images cannot be read, the first is .*good/001.png \(image file is truncated"
    for action in ("validate", "test"):
        with pytest.raises(ValueError, match=sentence):
            getattr(make_engine(), action)(make_model(), datamodule=datamodule)
    batches = make_engine().predict(as_if_trained(make_model(visualizer=False)), datamodule=datamodule)
    assert sum(len(batch.image_path) for batch in batches) == 10
    assert "001.png is not predicted" in caplog.text


def test_orientation_tags_are_followed_nowhere(folder, make_engine) -> None:
    """A rotated photo scores as its stored pixels, in training's reading and in that of a path."""
    write(folder, {"rotated.jpg": save_rotated})
    Image.open(folder / "rotated.jpg").save(folder / "stored.png")
    datamodule = Folder("part", normal_dir=folder, num_workers=0, test_split_mode="none", val_split_mode="none")
    datamodule.setup()
    read = {sample.image_path.rsplit("/", 1)[1]: sample.image for sample in datamodule.train_data}
    assert torch.equal(read["rotated.jpg"], read["stored.png"])
    scores = {
        batch.image_path[0].rsplit("/", 1)[1]: batch.pred_score
        for batch in make_engine().predict(as_if_trained(make_model(visualizer=False)), data_path=folder)
    }
    assert scores["rotated.jpg"] == scores["stored.png"]

# SPDX-License-Identifier: Apache-2.0

"""Every image fault by every way in: ``python benchmarks/faults/images.py OUTPUT.csv``.

A small DAAD+ is trained on drawn parts and exported once. Each file is then used in training, in the prediction of a
folder beside two good images, and by each inferencer, given the path or what the package's own reader makes of it.
"""

import csv
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import tifffile
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from PIL import Image

from anomalib_daad import Daad
from anomalib_daad import read_image as read_rightly
from anomalib_daad.data.image_check import reading_fault
from anomalib_daad.error_message import first_line

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 200, (48, 40), dtype=np.uint8)
RGB = RNG.integers(0, 200, (48, 40, 3), dtype=np.uint8)


def rotated(path: Path) -> None:
    """Save a photo with an orientation tag."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)


def half(path: Path) -> None:
    """Save a photo and cut the file in two."""
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def converted(mode: str) -> Callable[[Path], None]:
    """How to save the image in one of Pillow's modes."""
    return lambda path: Image.fromarray(RGB).convert(mode).save(path)


def filled(size: tuple[int, int]) -> Callable[[Path], None]:
    """How to save an image of one colour."""
    return lambda path: Image.new("RGB", size, (90, 60, 30)).save(path)


FAULTS: dict[str, list[tuple[str, Callable[[Path], object]]]] = {
    "truncated": [("a.png", half), ("a.jpg", half), ("a.tif", half), ("a.webp", half)],
    "zero bytes": [("a.png", lambda path: path.write_bytes(b"")), ("a.jpg", lambda path: path.write_bytes(b""))],
    "not an image": [("a.png", lambda path: path.write_text("text")), ("a.jpg", lambda path: path.write_bytes(b"\0"))],
    "grayscale": [("a.png", converted("L")), ("a.jpg", converted("L")), ("b.png", converted("1"))],
    "RGBA": [("a.png", converted("RGBA")), ("a.tif", converted("RGBA"))],
    "CMYK": [("a.jpg", converted("CMYK")), ("a.tif", converted("CMYK"))],
    "palette": [("a.png", converted("P")), ("a.bmp", converted("P"))],
    "EXIF-rotated": [("a.jpg", rotated)],
    "16-bit gray": [
        ("a.png", lambda path: Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)),
        ("a.tif", lambda path: tifffile.imwrite(path, GRAY.astype(np.uint16) * 257)),
    ],
    "32-bit and float gray": [
        ("a.tif", lambda path: tifffile.imwrite(path, GRAY.astype(np.int32) * 257)),
        ("b.tif", lambda path: tifffile.imwrite(path, GRAY.astype(np.float32) * 257)),
    ],
    "16-bit RGB": [("a.tif", lambda path: tifffile.imwrite(path, RGB.astype(np.uint16) * 257, photometric="rgb"))],
    "16-bit RGB in separate planes": [
        (
            "a.tif",
            lambda path: tifffile.imwrite(
                path, np.moveaxis(RGB.astype(np.uint16) * 257, -1, 0), photometric="rgb", planarconfig="separate"
            ),
        )
    ],
    "1x1": [("a.png", filled((1, 1)))],
    "8000x6000": [("a.jpg", filled((8000, 6000)))],
    "extreme aspect ratio": [("a.png", filled((4000, 1))), ("b.png", filled((1, 4000)))],
    "unicode path": [("Prüfling 検査 \N{HAMMER}.png", converted("RGB"))],
    "very long path": [
        ("x" * 240 + ".png", converted("RGB")),
        ("/".join(["y" * 200] * 6) + "/a.png", converted("RGB")),
    ],
    "symlink loop": [("a.png", lambda path: path.symlink_to(path))],
}


def save_good(folder: Path) -> None:
    """Save two good images."""
    for index in range(2):
        Image.fromarray(np.roll(RGB, index)).save(folder / f"good{index}.png")


def make_engine(folder: Path) -> Engine:
    """A quiet engine of one epoch on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=1, **quiet)


def train(folder: Path) -> Daad:
    """Train on the images of a folder."""
    settings = {"num_workers": 0, "test_split_mode": "none", "val_split_mode": "none"}
    model = Daad((32, 32), (2, 2, 1), 10, base_channels=4, seed=0, visualizer=False)
    make_engine(folder.parent / "results").fit(model, datamodule=Folder("part", normal_dir=folder, **settings))
    return model


def paths_of(folder: Path) -> dict[str, Callable[[Path], str]]:
    """The ways in; each returns what happened, or raises."""
    save_good(folder)
    model = train(folder).eval()
    inferencer = TorchInferencer(model.to_torch(folder), device="cpu")
    onnx_path = model.to_onnx(folder)
    session = onnxruntime.InferenceSession(str(onnx_path))
    vino = OpenVINOInferencer(onnx_path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})

    def scored(score: object, path: Path, reader: Callable = read_image) -> str:
        if not np.isfinite(np.asarray(score)).all():
            return "score is not finite"
        pixels = np.asarray(reader(path))  # (H, W, 3)
        if np.mean(pixels == 1) > 0.9:  # no file of this script shows white
            return "read as white"
        is_noise = "planes" in str(reading_fault(path)) and np.abs(pixels[:48, :40] - RGB / 255).max() > 0.1
        return "read as garbage" if is_noise else "works"

    def predict(path: Path) -> str:
        save_good(path.parent)
        batches = make_engine(path.parents[1]).predict(model, data_path=path.parent)
        names = {Path(name).name for batch in batches for name in batch.image_path}
        assert {"good0.png", "good1.png"} <= names
        return scored([float(batch.pred_score) for batch in batches], path) if path.name in names else "reported"

    def fit(path: Path) -> str:
        save_good(path.parent)
        return scored(float(train(path.parent).model.score.reconstruction_range[0]), path)

    def onnx(path: Path) -> str:
        image = read_image(path, as_tensor=True)[None].numpy()
        return scored(session.run(["pred_score"], {session.get_inputs()[0].name: image})[0], path)

    return {
        "training": fit,
        "prediction of a folder": predict,
        "TorchInferencer": lambda path: scored(inferencer.predict(path).pred_score, path),
        "onnxruntime": onnx,
        "OpenVINOInferencer": lambda path: scored(vino.predict(path).pred_score, path),
        "TorchInferencer, read_image": lambda path: scored(
            inferencer.predict(read_rightly(path)).pred_score, path, read_rightly
        ),
        "OpenVINOInferencer, read_image": lambda path: scored(
            vino.predict(read_rightly(path)).pred_score, path, read_rightly
        ),
    }


class Said(logging.Handler):
    """Keeps what the plugin logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def attempt(
    way_name: str, way: Callable[[Path], str], name: str, writer: Callable[[Path], object], said: Said
) -> tuple[str, str]:
    """Outcome and sentence of one file on one way in."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "images" / name
        path.parent.mkdir(parents=True)
        writer(path)
        said.lines.clear()
        try:
            outcome, sentence = way(path), said.lines[0] if said.lines else ""
        except Exception as error:
            sentence = first_line(error)
            is_ours = "images cannot be read" in sentence or "read_image" in way_name
            outcome = "refused" if is_ours else f"{type(error).__name__} of anomalib"
        return outcome, sentence.replace(temporary, "")[:300]


def main() -> None:
    """Try all and write the table: a row for each fault, way in and outcome."""
    os.environ["TRUST_REMOTE_CODE"] = "1"
    output, said = Path(sys.argv[1]).resolve(), Said()
    logging.getLogger("anomalib_daad.data.image_check").addHandler(said)
    rows: dict[tuple[str, str, str], tuple[int, str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # OpenVINO's cache goes to the working directory
        (Path(temporary) / "model").mkdir()
        for way_name, way in paths_of(Path(temporary) / "model").items():
            for fault, files in FAULTS.items():
                for name, writer in files:
                    outcome, sentence = attempt(way_name, way, name, writer, said)
                    count, first = rows.get((fault, way_name, outcome), (0, sentence))
                    rows[fault, way_name, outcome] = (count + 1, first)
    with output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["fault", "path", "outcome", "cases", "sentence of the first"])
        order = list(FAULTS)
        for (fault, way_name, outcome), (count, sentence) in sorted(rows.items(), key=lambda it: order.index(it[0][0])):
            table.writerow([fault, way_name, outcome, count, sentence])


if __name__ == "__main__":
    main()

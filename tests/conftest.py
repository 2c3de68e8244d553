# SPDX-License-Identifier: Apache-2.0

"""Small data and models that the tests share."""

import copy
import gc
import os
import random
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from filelock import FileLock
from PIL import Image

from anomalib_daad import Daad, DaadRestoration

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two processes share two cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that use inference runtimes last: forking data loader workers beside them may crash.

    The longest file of them comes first, so that both processes end at about the same time.
    """
    last = [
        "test_exporting.py",
        "test_properties.py",
        "test_speed.py",
        "test_studio.py",
        "test_examples.py",
        "test_image_reading.py",
    ]
    items.sort(key=lambda item: last.index(item.path.name) + 1 if item.path.name in last else 0)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through what imports made, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


SMALL = {"image_size": (32, 32), "division_rates": (2, 2, 1), "num_items": 10, "base_channels": 4, "seed": 0}
SMALL_RESTORATION = {"image_size": (64, 64), "downscale": 2, "base_channels": 4, "seed": 0}


def draw_part(rng: np.random.Generator, defective: bool, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark ground, 48x40 pixels, with a dark bar across it where defective; and the bar's mask."""
    size = (48 * scale, 40 * scale)
    image = rng.normal(40, 4, (*size, 3))
    center = tuple(int(c) for c in rng.integers(18 * scale, 23 * scale, 2))
    image[cv2.circle(np.zeros(size, np.uint8), center, 12 * scale, 255, -1) > 0] += 150
    mask = np.zeros(size, np.uint8)
    if defective:
        top, left = rng.integers(12 * scale, 20 * scale, 2)
        mask[top : top + 6 * scale, left : left + 12 * scale] = 255
        image[mask > 0] = rng.normal(10, 4, (int((mask > 0).sum()), 3))
    return image.clip(0, 255).astype(np.uint8), mask


def draw_data(root: Path, scale: int = 1) -> Path:
    """Root of a data set of MVTec AD's layout with one category, ``part``."""
    rng = np.random.default_rng(0)
    for folder, count in (("train/good", 12), ("test/good", 5), ("test/bar", 6)):
        directory = root / "part" / folder
        directory.mkdir(parents=True)
        for index in range(count):
            image, mask = draw_part(rng, folder == "test/bar", scale)
            cv2.imwrite(str(directory / f"{index:03d}.png"), image)
            if folder == "test/bar":
                truth = root / "part/ground_truth/bar"
                truth.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(truth / f"{index:03d}_mask.png"), mask)
    return root


def as_if_trained(model):
    """A model whose scores have ranges, as those of a trained one: others are refused in tests and predictions."""
    model.model.score.calibrate(torch.tensor([0.0, 10.0]), torch.tensor([0.0, 10.0]))
    return model


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the drawn data set, 48x40 pixels."""
    return draw_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make_datamodule(data_root):
    """Factory of datamodules over the small data set."""

    def make(**arguments) -> MVTecAD:
        defaults = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
        return MVTecAD(root=data_root, category="part", **{**defaults, **arguments})

    return make


@pytest.fixture
def make_engine(tmp_path):
    """Factory of quiet CPU engines."""

    def make(**arguments) -> Engine:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, **{**quiet, **arguments})

    return make


def make_model(**arguments) -> Daad:
    """A model of 32x32 pixels."""
    return Daad(**{**SMALL, **arguments})


def make_restoration(**arguments) -> DaadRestoration:
    """A model of 64x64 pixels whose networks see 32x32."""
    return DaadRestoration(**{**SMALL_RESTORATION, **arguments})


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of the weights and buffers of a model's network."""
    return copy.deepcopy(model.model.state_dict())


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0, equal_nan=True, msg=key)


def raw_scores(model, datamodule, split: str) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
    """R(x), L(x) and labels of a split, one image at a time."""
    model.eval()
    reconstruction, alignment, labels = [], [], []
    for item in getattr(datamodule, f"{split}_data"):
        with torch.no_grad():
            scores = model.model.scores(model.pre_processor.transform(item.image[None]))
        reconstruction.append(scores.reconstruction)
        alignment.append(scores.alignment)
        labels.append(int(item.gt_label))
    has_alignment = alignment[0] is not None
    return torch.cat(reconstruction), torch.cat(alignment) if has_alignment else None, labels


def draw(folder: Path, count: int, light: float = 1.0, seed: int = 1) -> Path:
    """Good parts under another light, one file each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = draw_part(rng, defective=False)[0] * light
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / f"{index:03d}.png")
    return folder


def train(model, root: Path, folder: Path, epochs: int = 1):
    """Train a model on the small data set, and write its checkpoint, ``model.ckpt``."""
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, enable_progress_bar=False)
    engine.fit(model, datamodule=MVTecAD(root=root, category="part", train_batch_size=4, num_workers=0))
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return model.eval()


@pytest.fixture(scope="session")
def restoration(data_root, tmp_path_factory) -> Path:
    """Checkpoint of a DaadRestoration."""
    folder = tmp_path_factory.mktemp("restoration")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(make_restoration(), data_root, folder)
    return folder / "model.ckpt"


@pytest.fixture(scope="session")
def daad(data_root, tmp_path_factory) -> SimpleNamespace:
    """Checkpoint of a Daad and its exports to ONNX and OpenVINO, for tests that change none of them.

    An export takes seconds: all processes share one.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "daad"
    with FileLock(shared / "daad.lock"):
        if not folder.exists():
            _export_daad(data_root, folder)
    exports = folder / "weights"
    return SimpleNamespace(
        checkpoint=folder / "model.ckpt",
        onnx=exports / "onnx" / "model.onnx",
        openvino=exports / "openvino" / "model.xml",
    )


def _export_daad(data_root: Path, folder: Path) -> None:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = train(make_model(), data_root, folder, epochs=3)
        engine = Engine(accelerator="cpu", devices=1)
        onnx = engine.export(model, ExportType.ONNX, export_root=folder)
        patch.setattr(model, "to_onnx", lambda *_, **__: onnx)  # OpenVINO's export begins with ONNX's
        engine.export(model, ExportType.OPENVINO, export_root=folder)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double or overwrite some bytes, more often near the start, where the structure is."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = int(len(damaged) * chance.random() ** chance.choice([1, 6]))
        kind = chance.randrange(4)
        if kind == 0:
            damaged[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del damaged[place : place + chance.randint(1, 64)]
        elif kind == 2:
            damaged[place:place] = damaged[place : place + chance.randint(1, 64)]
        else:
            damaged[place : place + 8] = chance.choice([b"\xff" * 8, bytes(8), b"\x80" + bytes(7)])
    return bytes(damaged)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of real data in MVTec AD's layout, named by ``ANOMALIB_DAAD_DATA``."""
    root = os.environ.get("ANOMALIB_DAAD_DATA")
    if not root or not (Path(root) / "MVTecAD" / "bottle").is_dir():
        pytest.skip("set ANOMALIB_DAAD_DATA to a folder that holds MVTecAD/bottle to run this test on real images")
    return Path(root) / "MVTecAD"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch) -> None:
    """Keep what anomalib writes to the working directory out of the checkout, and the random state apart."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

# SPDX-License-Identifier: Apache-2.0

"""Mistakes on the command line end with one line that says what was wrong, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.cli import AnomalibCLI
from conftest import make_restoration

from anomalib_daad import Daad, DaadRestoration
from anomalib_daad.last_line import say_last_line
from anomalib_daad.misspelling import find_misspelling

ROOT = Path(__file__).parents[1]
SMALL = "--model DaadRestoration --model.image_size 64 --model.downscale 2 --model.base_channels 4"
DAAD = "--model Daad --model.image_size 32 --model.division_rates [2,2,1] --model.base_channels 4"
SHORT = "--trainer.accelerator cpu --trainer.max_steps 1 --trainer.enable_progress_bar false --data.num_workers 0"
PART = f"--data MVTecAD --data.root mvtec --data.category part {SHORT}"
FOLDER = f"--data Folder --data.name part --data.root mvtec/part --data.abnormal_dir test/bar {SHORT}"
ANOMALIB = "import _anomalib_daad_hook; _anomalib_daad_hook.install(); from anomalib.cli.cli import main; main()"


@pytest.fixture(scope="module")
def folders(data_root, tmp_path_factory) -> Path:
    """A data set, and others with faults."""
    folder = tmp_path_factory.mktemp("folders")
    for name in ("mvtec", "unmasked", "empty"):
        shutil.copytree(data_root, folder / name)
    (folder / "unmasked/part/ground_truth/bar/002_mask.png").unlink()
    for path in (folder / "empty/part/train/good").iterdir():
        path.unlink()
    return folder


@pytest.fixture
def _there(folders, monkeypatch) -> None:
    """Stand where the folders are, beside a checkpoint, and where nothing can be downloaded."""
    monkeypatch.chdir(folders)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def last_line(arguments: str, monkeypatch, capsys) -> str:
    """What anomalib's command ends with."""
    monkeypatch.setattr(sys, "argv", ["anomalib", *arguments.split()])
    try:
        AnomalibCLI(arguments.split())
    except SystemExit:
        pass
    except Exception as error:  # as Python does with one that nobody catches
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    say_last_line()
    return ["", *capsys.readouterr().err.splitlines()][-1]


MISTAKES = {
    "category": (
        f"train {SMALL} {PART} --data.category prat",
        "There is no category prat in mvtec, and MVTec AD has none of that name: there are part; give one of them.",
    ),
    "path": (f"train {SMALL} {FOLDER} --data.normal_dir train/god", "part/train/god: give a folder that exists"),
    "gpu": (f"train {SMALL} {PART} --trainer.accelerator gpu", "leave --trainer.accelerator out"),
    "size": (f"train {SMALL} {PART} --model.image_size 100", "take 96x96 or 128x128."),
    "checkpoint of another model": (f"test {DAAD} {PART} --ckpt_path model.ckpt", "load it with DaadRestoration."),
    "no checkpoint": (f"test {SMALL} {PART}", "on the command line with --ckpt_path."),
    "empty": (f"train {SMALL} {PART} --data.root empty", "training needs at least one good image."),
    "empty folder": (
        f"train {SMALL} {FOLDER} --data.root empty/part --data.normal_dir train/good",
        "put images there, or give another folder.",
    ),
    "mask": (f"train {SMALL} {PART} --data.root unmasked", "test/bar/002.png has none; every defective image needs"),
    "mask of a folder": (
        f"train {SMALL} {FOLDER} --data.root unmasked/part --data.normal_dir train/good --data.mask_dir ground_truth",
        "test/bar/002.png has none; every defective image needs",
    ),
    "model": (f"train --model DAAD {PART}", "There is no model DAAD: write --model Daad."),
    "option": (f"train {SMALL} --model.imagesize 64 {PART}", "no argument imagesize: write --model.image_size."),
}


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_what_to_do(mistake, folders, monkeypatch, capsys, make_engine, make_datamodule) -> None:
    if mistake == "gpu" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    if mistake == "checkpoint of another model":
        engine = make_engine(max_steps=1, limit_val_batches=0)
        engine.fit(make_restoration(), datamodule=make_datamodule())
        engine.trainer.save_checkpoint(folders / "model.ckpt")
    arguments, words = MISTAKES[mistake]
    line = last_line(arguments, monkeypatch, capsys)
    assert line.startswith("anomalib_daad: error: ")
    assert words in line


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize(
    "arguments", [f"train --model Padim --model.pre_trained false {FOLDER}", "train --model Padin"]
)
def test_nothing_is_added_to_other_models(arguments, monkeypatch, capsys) -> None:
    assert "anomalib_daad" not in last_line(f"{arguments} --data.normal_dir god", monkeypatch, capsys)


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize(
    ("start", "arguments", "status"),
    [
        (["-m", "anomalib_daad"], MISTAKES["empty folder"], 1),
        (["-c", ANOMALIB], MISTAKES["category"], 1),
        (["-c", ANOMALIB], MISTAKES["option"], 2),
    ],
    ids=["module", "error", "parser"],
)
def test_the_commands_print_it_last(start, arguments, status) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "hook")))}
    command = [sys.executable, *start, *arguments[0].split()]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == status
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("anomalib_daad: error: ")
    assert arguments[1] in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", None),
        ("train --model Daad --model.seed 1 --model.init_args.flips=false --model.pre_processor.x 1", None),
        ("train --model some.where.MyDaad", None),
        ("train --model configs/daad.yaml", None),
        ("train --model=MemAE", "There is no model MemAE: write --model MemAe."),
        ("fit --model.class_path mnad", "There is no model mnad: write --model Mnad."),
        (
            "train --model anomalib_daad.Daad --model.gama=1",
            "Daad has no argument gama: write --model.gamma.",
        ),
    ],
)
def test_what_is_spelt_otherwise_is_found(arguments, sentence) -> None:
    assert find_misspelling(arguments.split()) == sentence


def test_what_moved_says_where_to() -> None:
    said = find_misspelling(["train", "--model", "Daad", "--model.downscale", "2"])
    assert said is not None
    assert said.startswith("Daad takes no downscale: restoration training is a model of its own, DaadRestoration")


def test_one_number_is_a_square() -> None:
    for kind, side in ((Daad, 128), (DaadRestoration, 64)):
        model = kind(image_size=side, base_channels=4)
        assert model.model.image_size == model.hparams["image_size"] == (side, side)
    with pytest.raises(ValueError, match=r"two whole numbers, height and width, such as .* or one; got '64'"):
        Daad(image_size="64")

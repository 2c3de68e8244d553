# SPDX-License-Identifier: Apache-2.0

"""Checkpoints on full and read-only disks, and damaged ones."""

import os
import random
import subprocess
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import make_model, mutated
from lightning.pytorch.callbacks import Callback

from anomalib_daad import Daad


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own for the results."""
    disk = tmp_path / "results"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


class Fill(Callback):
    """Fills the disk when the second epoch starts."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        del pl_module
        if trainer.current_epoch == 1:
            with suppress(OSError), (self.disk / "fill").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass


def test_a_full_disk_keeps_the_last_checkpoint(small_disk, make_engine, make_datamodule) -> None:
    model = make_model()
    engine = make_engine(max_epochs=3, callbacks=[Fill(small_disk)])
    with pytest.raises(OSError, match="cannot be written: there is no space left on the disk; go on from the last one"):
        engine.fit(model, datamodule=make_datamodule())
    path = Path(engine.trainer.checkpoint_callback.best_model_path)
    assert torch.load(path, weights_only=True)["epoch"] == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    (small_disk / "fill").unlink()
    engine = make_engine(max_epochs=3)
    engine.fit(make_model(), datamodule=make_datamodule(), ckpt_path=path)
    assert engine.trainer.current_epoch == 3


def test_a_checkpoint_never_passes_through_the_folder_for_temporary_files(make_engine, make_datamodule, monkeypatch):
    """A move between disks is a copy, which a kill cuts off."""

    def refuse(*_, **__) -> None:
        raise AssertionError

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    engine = make_engine(max_epochs=1)
    engine.fit(make_model(), datamodule=make_datamodule())
    assert Path(engine.trainer.checkpoint_callback.best_model_path).exists()


def test_a_folder_that_turns_read_only_is_said(small_disk, make_engine, make_datamodule) -> None:
    class Lock(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            del pl_module
            if trainer.current_epoch == 1:
                subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    engine = make_engine(max_epochs=3, callbacks=[Lock()])
    with pytest.raises(OSError, match="cannot be written: Read-only file system; go on from the last one"):
        engine.fit(make_model(), datamodule=make_datamodule())
    with pytest.raises(OSError, match="Read-only file system"):
        make_engine(max_epochs=1).fit(make_model(), datamodule=make_datamodule())


@pytest.fixture
def checkpoint(make_engine, make_datamodule) -> Path:
    engine = make_engine(max_epochs=1)
    engine.fit(make_model(), datamodule=make_datamodule())
    return Path(engine.trainer.checkpoint_callback.best_model_path)


def flip_a_weight(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    with path.open("r+b") as file:
        file.seek(largest.header_offset + largest.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "one bit": (flip_a_weight, "the checksum of .* is wrong"),
    "cut off": (cut, "failed finding central directory"),
    "empty": (lambda path: path.write_bytes(b""), "EOFError"),
    "text": (lambda path: path.write_text("weights"), "it holds something else than weights"),
    "a dictionary": (
        lambda path: torch.save({"weight": torch.ones(2)}, path),
        "a weight or the version of Lightning is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused(name, checkpoint, make_engine, make_datamodule) -> None:
    damage, reason = DAMAGE[name]
    damage(checkpoint)
    sentence = rf"{checkpoint.name} is damaged, or is not a Lightning checkpoint \(.*{reason}.*\): give the file that"
    ways = [
        lambda: Daad.load_from_checkpoint(checkpoint),
        lambda: make_engine(max_epochs=2).fit(make_model(), datamodule=make_datamodule(), ckpt_path=checkpoint),
        lambda: make_engine().test(make_model(), datamodule=make_datamodule(), ckpt_path=checkpoint),
        lambda: make_engine().export(make_model(), "onnx", ckpt_path=checkpoint),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=sentence) as error:
            way()
        assert "\n" not in str(error.value)


def test_damage_at_random_is_found(checkpoint) -> None:
    chance, content = random.Random(0), checkpoint.read_bytes()
    right = Daad.load_from_checkpoint(checkpoint).state_dict()
    refused = 0
    for _ in range(60):
        checkpoint.write_bytes(mutated(content, chance))
        try:
            state = Daad.load_from_checkpoint(checkpoint).state_dict()
        except ValueError as error:
            assert "is damaged, or is not a Lightning checkpoint" in str(error)  # noqa: PT017
            refused += 1
            continue
        assert all(torch.equal(value, right[key]) for key, value in state.items())
    assert refused > 40

# SPDX-License-Identifier: Apache-2.0

"""Faults of disks and trainings, by the command lines: ``python benchmarks/faults/training.py OUTPUT.csv``.

Small disks are mounted, which only root may. Each case is run as ``anomalib`` and as ``python -m anomalib_daad``.
"""

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from kill import draw

MODEL = "--model Daad --model.image_size [32,32] --model.division_rates [2,2,1] --model.base_channels 4"
DATA = "--data MVTecAD --data.root data --data.category part --data.num_workers 0 --data.train_batch_size 4"
ARGUMENTS = [
    *MODEL.split(),
    *DATA.split(),
    "--model.num_items",
    "10",
    "--model.seed",
    "0",
    "--trainer.accelerator",
    "cpu",
]
COMMANDS = {"anomalib": ["anomalib"], "python -m anomalib_daad": [sys.executable, "-m", "anomalib_daad"]}


@contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def run(command: list[str], action: str, results: Path, *more: str, epochs: int = 3) -> tuple[int, str]:
    """Exit status and what stands after the name of the error."""
    line = [
        *command,
        action,
        *ARGUMENTS,
        "--trainer.max_epochs",
        str(epochs),
        "--default_root_dir",
        str(results),
        *more,
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=results.parents[0])
    text = " ".join((done.stdout + done.stderr).split())
    sentence = re.split(r"[A-Za-z]+Error: |anomalib_daad: error: ", text)[-1]
    return done.returncode, sentence if done.returncode else ""


def kept(results: Path) -> str:
    """What checkpoints lie there."""
    found = sorted(path for path in results.rglob("*.ckpt") if path.is_file())
    epochs = [torch.load(path, weights_only=True)["epoch"] + 1 for path in found]
    drafts = list(results.rglob("*.part"))
    return f"checkpoints after epochs {epochs}" + (f", {len(drafts)} half ones" if drafts else "")


def cases(name: str, command: list[str], folder: Path) -> Iterator[tuple[str, int, str, str]]:
    """Fault, exit status, sentence, and what was left."""
    results = folder / f"results_by_{name}"
    with disk(results, "20m"):
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
        yield "read-only results folder", *run(command, "train", results), kept(results)
    with disk(results, "700k"):
        yield "disk full at the second checkpoint", *run(command, "train", results), kept(results)
    with disk(results, "300k"):
        yield "disk full at the first checkpoint", *run(command, "train", results), kept(results)
    results = folder / f"whole_by_{name}"
    yield "none", *run(command, "train", results), kept(results)
    (checkpoint,) = {path.resolve() for path in results.rglob("*.ckpt")}
    diverged = folder / f"diverged_by_{name}"
    more = ["--ckpt_path", str(checkpoint), "--model.lambdas", "[1.0e+38, 0.5, 0.5]"]
    yield "loss not finite", *run(command, "fit", diverged, *more, epochs=5), kept(diverged) + ", " + kept(results)
    damaged = folder / f"damaged_by_{name}.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 64
    damaged.write_bytes(content)
    for action in ("fit", "test"):
        status = run(command, action, folder / "other", "--ckpt_path", str(damaged), epochs=5)
        yield f"damaged checkpoint, {action}", *status, ""
    both = folder / f"both_by_{name}"
    line = [*command, "train", *ARGUMENTS, "--trainer.max_epochs", "3", "--default_root_dir", str(both)]
    started = [subprocess.Popen(line, cwd=folder, stdout=-3, stderr=-3) for _ in range(2)]
    yield "two runs in one results folder", max(process.wait() for process in started), "", kept(both)


def main() -> None:
    """Write a row for each fault and command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output, rows = parser.parse_args().output.resolve(), []
    folder = Path(tempfile.mkdtemp())
    draw(folder / "data")
    for name, command in COMMANDS.items():
        for fault, status, sentence, left in cases(name.split()[0], command, folder):
            rows.append((fault, name, 1, status, sentence.replace(f"{folder}/", ""), left))
            print(rows[-1], flush=True)
    shutil.rmtree(folder)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["fault", "command", "cases", "exit status", "sentence", "left"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()

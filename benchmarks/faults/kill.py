# SPDX-License-Identifier: Apache-2.0

"""A training that is killed again and again: ``python benchmarks/faults/kill.py OUTPUT.csv``.

A small system is trained through anomalib's Engine with a checkpoint after each epoch, killed (SIGKILL) after random
times, and resumed each time from the newest checkpoint that lies in its results folder, until it is finished. Its
weights, ranges, thresholds and test metrics are compared with those of a training that nobody killed. Repeated with
other random times until there were enough kills.
"""

import argparse
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_daad import Daad, DaadRestoration, Mnad
from anomalib_daad.commands.shared.output_folder import write_table

SMALL = {"base_channels": 4, "seed": 0, "visualizer": False}
PAPERS = {"image_size": (32, 32), "num_items": 10, **SMALL}
SYSTEMS = {
    "DAAD+": lambda: Daad(**PAPERS, division_rates=(2, 2, 1)),
    "DaadRestoration": lambda: DaadRestoration(image_size=(64, 64), **SMALL),
    "MNAD": lambda: Mnad(**PAPERS),
}
EPOCHS = 40


def draw(root: Path) -> None:
    """Draw a small data set."""
    chance = np.random.default_rng(0)
    for folder, count in (("train/good", 12), ("test/good", 5), ("test/bar", 6), ("ground_truth/bar", 6)):
        (root / "part" / folder).mkdir(parents=True)
        for index in range(count):
            image = chance.normal(120, 20, (48, 40, 3))
            if folder == "test/bar":
                image[10:20, 10:20] = 0
            if folder == "ground_truth/bar":
                image[:] = 0
                image[10:20, 10:20] = 255
            name = f"{index:03d}_mask.png" if folder == "ground_truth/bar" else f"{index:03d}.png"
            cv2.imwrite(str(root / "part" / folder / name), image.clip(0, 255).astype(np.uint8))


def train(system: str, root: Path, results: Path, checkpoint: Path | None, finished: Path) -> None:
    """Train to the end, in a process of its own, and leave what came out in a file."""
    os.chdir(results)
    with (results / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    datamodule = MVTecAD(root, "part", train_batch_size=4, eval_batch_size=4, num_workers=0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=results, accelerator="cpu", devices=1, max_epochs=EPOCHS, **quiet)
    model = SYSTEMS[system]()
    engine.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
    metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
    draft = finished.with_suffix(".part")
    torch.save({"metrics": metrics, "state": model.state_dict()}, draft)
    draft.replace(finished)


def difference(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of a weight, range or threshold, and of a metric."""
    state = max(
        float((torch.nan_to_num(found["state"][key]) - torch.nan_to_num(value)).abs().max())
        for key, value in expected["state"].items()
        if value.is_floating_point() and value.numel()
    )
    return state, max(abs(found["metrics"][key] - value) for key, value in expected["metrics"].items())


def campaign(system: str, root: Path, folder: Path, expected: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Kill and resume one training until it is finished."""
    counts = {"kills": 0, "while_writing": 0, "before_a_checkpoint": 0, "unreadable": 0}
    finished = folder / "finished"
    while True:
        checkpoints = [path for path in folder.rglob("*.ckpt") if path.is_file()]
        newest = max(checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is not None:
            try:
                torch.load(newest, weights_only=True)
            except Exception:
                counts["unreadable"] += 1
                newest.unlink()
                continue
        process = multiprocessing.get_context("fork").Process(
            target=train, args=(system, root, folder, newest, finished)
        )
        process.start()
        process.join(chance.uniform(0.3, 2.5))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
            counts["kills"] += 1
            drafts = list(folder.rglob(".*.part"))
            counts["while_writing"] += bool(drafts)
            counts["before_a_checkpoint"] += not any(folder.rglob("*.ckpt"))
            for draft in drafts:
                draft.unlink()
        elif process.exitcode:
            sys.exit((folder / "log").read_text()[-3000:])
        if finished.exists():
            state, metric = difference(torch.load(finished), expected)
            return {"trainings": 1, **counts, "largest_difference": state, "largest_metric_difference": metric}


def main() -> None:
    """Write a row for each system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=60, help="at least so many for each system")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for system in SYSTEMS:
        with tempfile.TemporaryDirectory() as temporary:
            root, chance, start = Path(temporary) / "data", random.Random(0), time.monotonic()
            draw(root)
            whole = Path(temporary) / "whole"
            whole.mkdir()
            process = multiprocessing.get_context("fork").Process(
                target=train, args=(system, root, whole, None, whole / "finished")
            )
            process.start()
            process.join()
            expected = torch.load(whole / "finished")
            seconds = round(time.monotonic() - start, 1)
            row: dict[str, Any] = {"system": system, "epochs": EPOCHS, "seconds_uninterrupted": seconds}
            while row.get("kills", 0) < arguments.kills:
                folder = Path(tempfile.mkdtemp(dir=temporary))
                for key, value in campaign(system, root, folder, expected, chance).items():
                    row[key] = max(row.get(key, 0), value) if "difference" in key else row.get(key, 0) + value
            rows.append(row)
            print(row, flush=True)
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

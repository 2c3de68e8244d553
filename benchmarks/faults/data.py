# SPDX-License-Identifier: Apache-2.0

"""Every fault of a data set, trained on and tested: ``python benchmarks/faults/data.py OUTPUT.csv``.

The faults are those of ``tests/test_data_faults.py`` and the ones that anomalib refuses, in both of its layouts.
"""

import argparse
import csv
import logging
import math
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.engine import Engine

from anomalib_daad.error_message import first_line

sys.path.extend(sorted({str(path.parent) for path in (Path(__file__).parents[2] / "tests").rglob("*.py")}))
from conftest import make_model
from kill import draw
from test_data_faults import WORK, keep

FAULTS: dict[str, Callable] = {
    "none": lambda root: None,  # noqa: ARG005
    "no training image": lambda root: keep(root / "part/train/good", 0),
    **WORK,
    "no masks": lambda root: keep(root / "part/ground_truth/bar", 0),
    "some masks missing": lambda root: keep(root / "part/ground_truth/bar", 3),
}
SETTINGS = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}


def mvtec(root: Path) -> AnomalibDataModule:
    """MVTec AD's layout."""
    return MVTecAD(root, "part", **SETTINGS)


def folder(root: Path) -> AnomalibDataModule:
    """Folders by name."""
    names = {"normal_dir": "train/good", "abnormal_dir": "test/bar", "normal_test_dir": "test/good"}
    return Folder("part", root=root / "part", **names, mask_dir="ground_truth/bar", val_split_mode="same_as_test")


def attempt(make: Callable[[Path], AnomalibDataModule], spoil: Callable, temporary: Path) -> tuple[str, str, str]:
    """Outcome, metrics and sentence of training for an epoch and testing."""
    root = temporary / "data"
    shutil.rmtree(root, ignore_errors=True)
    draw(root)
    spoil(root)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    try:
        engine = Engine(default_root_dir=temporary / "results", max_epochs=1, **quiet)
        model, datamodule = make_model(visualizer=False), make(root)
        engine.fit(model, datamodule=datamodule)
        metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
        scores = [batch.pred_score for batch in engine.predict(model, datamodule=datamodule)]
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        return ("refused" if "anomalib_daad" in last else "refused by anomalib"), "", first_line(error)
    is_finite = all(score.isfinite().all() for score in scores) and all(map(math.isfinite, metrics.values()))
    shown = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items() if "AUROC" in key)
    return ("works" if is_finite else "a score or a metric is not finite"), shown, ""


def main() -> None:
    """Write a row for each fault in each layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output.resolve()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        for fault, spoil in FAULTS.items():
            for name, make in (("MVTecAD", mvtec), ("Folder", folder)):
                outcome, metrics, sentence = attempt(make, spoil, Path(temporary))
                rows.append((fault, name, outcome, 1, metrics, sentence.replace(temporary, "")))
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["fault", "layout", "outcome", "cases", "metrics", "sentence"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()

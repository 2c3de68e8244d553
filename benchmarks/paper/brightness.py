# SPDX-License-Identifier: Apache-2.0

"""How well the brightness of an image alone tells good from defective, and how far it explains a model's R(x).

Example:
    python benchmarks/paper/brightness.py --root datasets/MVTecAD --categories bottle screw transistor \
        --output benchmarks/paper/brightness.csv
    python benchmarks/paper/brightness.py --root datasets/MVTecAD --categories screw \
        --checkpoint screw.ckpt --output benchmarks/paper/brightness.csv
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from anomalib.data.utils import read_image
from scipy.stats import spearmanr
from skimage.io import imread
from sklearn.metrics import roc_auc_score

from anomalib_daad import Daad
from anomalib_daad.commands.shared.output_folder import write_table


def brightness(folder: Path) -> list[float]:
    """Mean gray value of every image in a folder, 0 to 255."""
    return [float(np.mean(imread(path))) for path in sorted(folder.glob("*.png"))]


def reconstruction_scores(model: Daad, folder: Path) -> list[float]:
    """R(x) of every image in a folder."""
    images = (model.pre_processor(read_image(path, as_tensor=True)[None]) for path in sorted(folder.glob("*.png")))
    with torch.no_grad():
        return [model.model.scores(image).reconstruction.item() for image in images]


def main() -> None:
    """Write one row a category."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--checkpoint")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = Daad.load_from_checkpoint(arguments.checkpoint).eval() if arguments.checkpoint else None
    rows = []
    for category in arguments.categories:
        folder = arguments.root / category
        train = brightness(folder / "train/good")
        good = brightness(folder / "test/good")
        defects = [path for path in sorted((folder / "test").iterdir()) if path.name != "good"]
        bad = [value for path in defects for value in brightness(path)]
        row = {
            "category": category,
            "train_good_mean": round(np.mean(train), 2),
            "train_good_std": round(np.std(train), 2),
            "test_good_mean": round(np.mean(good), 2),
            "test_good_std": round(np.std(good), 2),
            "test_bad_mean": round(np.mean(bad), 2),
            "test_bad_std": round(np.std(bad), 2),
            "auroc_of_brightness": round(roc_auc_score([0] * len(good) + [1] * len(bad), good + bad), 4),
        }
        if model is not None:
            train_scores = reconstruction_scores(model, folder / "train/good")
            bad_scores = [value for path in defects for value in reconstruction_scores(model, path)]
            row["train_spearman_of_R_and_brightness"] = round(spearmanr(train_scores, train)[0], 3)
            row["bad_spearman_of_R_and_brightness"] = round(spearmanr(bad_scores, bad)[0], 3)
        rows.append(row)
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

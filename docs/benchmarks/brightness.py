# SPDX-License-Identifier: Apache-2.0

"""How well the brightness of an image alone tells good from defective: a check of the data, not of a model.

Example:
    python docs/benchmarks/brightness.py --root datasets/MVTecAD --categories bottle screw transistor \
        --output docs/benchmarks/brightness.csv
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from skimage.io import imread
from sklearn.metrics import roc_auc_score


def brightness(folder: Path) -> list[float]:
    """Mean gray value of every image in a folder, 0 to 255."""
    return [float(np.mean(imread(path))) for path in sorted(folder.glob("*.png"))]


def main() -> None:
    """Write one row a category."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for category in arguments.categories:
        folder = arguments.root / category
        train = brightness(folder / "train/good")
        good = brightness(folder / "test/good")
        bad = [
            value for path in sorted((folder / "test").iterdir()) if path.name != "good" for value in brightness(path)
        ]
        rows.append(
            {
                "category": category,
                "train_good_mean": round(np.mean(train), 2),
                "train_good_std": round(np.std(train), 2),
                "test_good_mean": round(np.mean(good), 2),
                "test_good_std": round(np.std(good), 2),
                "test_bad_mean": round(np.mean(bad), 2),
                "test_bad_std": round(np.std(bad), 2),
                "auroc_of_brightness": round(roc_auc_score([0] * len(good) + [1] * len(bad), good + bad), 4),
            }
        )
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

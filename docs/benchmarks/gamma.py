# SPDX-License-Identifier: Apache-2.0

"""What the weight of R in the fused score does to cells of ``anomalib-daad reproduce``, from their scores alone.

R and L are scaled by the test images' own ranges, so that the numbers for 0.9 differ in the third digit from those of
the trained models, which are scaled by the ranges of good training images.

Example:
    python docs/benchmarks/gamma.py --cells reproduction/cells --output docs/benchmarks/papers/gamma_mnist.csv
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from anomalib_daad.output_folder import read_table, write_table

WEIGHTS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)


def main() -> None:
    """Write one row a cell with both scores, and one of means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.cells.glob("*/result.json")):
        scores = read_table(path.with_name("scores.csv"))
        if not scores[0]["L"]:
            continue
        labels, *parts = (np.array([float(row[name]) for row in scores]) for name in ("label", "R", "L"))
        scaled = [(part - part.min()) / (part.max() - part.min()) for part in parts]
        result = json.loads(path.read_text())
        row = {name: result[name] for name in ("system", "category", "seed")}
        for weight in WEIGHTS:
            fused = weight * scaled[0] + (1 - weight) * scaled[1]
            row[f"gamma_{weight}"] = round(roc_auc_score(labels, fused), 4)
        rows.append(row)
    mean = {f"gamma_{weight}": round(np.mean([row[f"gamma_{weight}"] for row in rows]), 4) for weight in WEIGHTS}
    write_table([*rows, {"system": "mean", **mean}], arguments.output)


if __name__ == "__main__":
    main()

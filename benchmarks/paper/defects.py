# SPDX-License-Identifier: Apache-2.0

"""Which defects R(x) tells from good images, and whether the reconstruction error lies in the defect.

Example:
    python benchmarks/paper/defects.py --root datasets/MVTecAD --category transistor --checkpoint transistor.ckpt \
        --output benchmarks/paper/defects.csv
"""

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import Daad


def measure(model: Daad, datamodule: MVTecAD) -> dict[str, np.ndarray]:
    """R(x), area of the defect and mean error inside over outside of it, (n, 3), of the test images by their kind."""
    results: dict[str, list[list[float]]] = {}
    for batch in datamodule.test_dataloader():
        images = model.pre_processor(batch.image)
        with torch.no_grad():
            scores = model.model.scores(images).reconstruction
            errors = (images - model.model.autoencoder(images)).square().mean(dim=1)
        masks = interpolate(batch.gt_mask[:, None].float(), errors.shape[-2:])[:, 0] > 0
        for path, score, error, mask in zip(batch.image_path, scores, errors, masks, strict=True):
            ratio = (error[mask].mean() / error[~mask].mean()).item()
            results.setdefault(Path(path).parent.name, []).append([score.item(), mask.float().mean().item(), ratio])
    return {kind: np.array(values) for kind, values in results.items()}


def main() -> None:
    """Write one row a kind of image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--category", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    datamodule = MVTecAD(arguments.root, arguments.category, eval_batch_size=16, num_workers=0)
    datamodule.setup()
    kinds = measure(Daad.load_from_checkpoint(arguments.checkpoint, map_location="cpu").eval(), datamodule)
    good = kinds["good"][:, 0]
    rows = []
    for kind, values in sorted(kinds.items()):
        score, area, ratio = values.T
        row = {"kind": kind, "images": len(values), "R_mean": round(score.mean(), 3), "R_std": round(score.std(), 3)}
        if kind != "good":
            labels = [0] * len(good) + [1] * len(score)
            row["auroc_R"] = round(roc_auc_score(labels, np.r_[good, score]), 3)
            row["median_area"] = round(float(np.median(area)), 4)
            row["median_error_inside_over_outside"] = round(float(np.median(ratio)), 2)
        rows.append(row)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=max(map(list, rows), key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""Whether thresholds from good images reject as many further good ones as they promise.

The good test images, which no training saw, are halved at random 20 times: one half sets the threshold, the other is
judged. Small halves can promise no small rate; what they promise stands beside what was rejected.

Example:
    python benchmarks/restoration/false_alarms.py bottle:bottle.ckpt screw:screw.ckpt --root datasets/MVTecAD \
        --output false_alarms.csv
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD

from anomalib_daad import DaadRestoration, FalseAlarmPostProcessor
from anomalib_daad.commands.shared.machine import describe_commit, describe_machine
from anomalib_daad.commands.shared.output_folder import Row, write_table

RATES = (0.01, 0.05, 0.1)
SPLITS = 20


@torch.no_grad()
def score(model: DaadRestoration, datamodule: MVTecAD) -> torch.Tensor:
    """Score the good test images."""
    scores = []
    for batch in datamodule.test_dataloader():
        good = batch.image[batch.gt_label == 0]
        if len(good):
            scores.append(model.model(model.pre_processor(good)).pred_score.flatten())
    return torch.cat(scores)


def split(scores: torch.Tensor, rate: float) -> Row:
    """Set a threshold by one half and judge the other, many times."""
    chance = np.random.default_rng(0)
    post_processor, rejected = FalseAlarmPostProcessor(rate), []
    half = len(scores) // 2
    for _ in range(SPLITS):
        order = torch.from_numpy(chance.permutation(len(scores)))
        post_processor.learn(scores[order[:half]])
        rejected.append(float((scores[order[half:]] > post_processor.image_threshold).float().mean()))
    promised = post_processor.promised_rate
    return {
        "rate": rate,
        "good_images": half,
        "judged_images": len(scores) - half,
        "promised": round(promised, 4),
        "rejected": round(float(np.mean(rejected)), 4),
        # Splits share their images, so that they are hardly more certain together than one of all images is.
        "binomial_error": round((promised * (1 - promised) / len(scores)) ** 0.5, 4),
    }


def main() -> None:
    """Write one row for each checkpoint and rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="CATEGORY:FILE")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for text in arguments.checkpoints:
        category, path = text.split(":", 1)
        datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
        datamodule.setup()
        scores = score(DaadRestoration.load_from_checkpoint(path, map_location="cpu"), datamodule)
        about: Row = {"commit": describe_commit(), "machine": describe_machine("cpu")}
        rows += [{"category": category, **split(scores, rate), **about} for rate in RATES]
        print(*rows[-len(RATES) :], sep="\n", flush=True)
        write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

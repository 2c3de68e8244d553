# SPDX-License-Identifier: Apache-2.0

"""Train one configuration on categories and record the image AUROC of R(x), L(x) and the fused score.

A fourth column ranks images by the largest value of the anomaly map, to tell a defect that the mean over all pixels
dilutes from one that the model does not see.

The scores are measured on the test split at every validation of the run, and AUROC is scikit-learn's, so that the
table shows the learning curve, not a chosen epoch. The last row of a run is its result.

Example:
    python benchmarks/paper/accuracy.py --config configs/daad_plus_cpu.yaml --root datasets/MVTecAD \
        --categories bottle screw transistor --output benchmarks/paper/accuracy.csv
"""

import argparse
import csv
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
from anomalib.cli.cli import AnomalibCLI
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import roc_auc_score

import anomalib_daad


class RecordScores(Callback):
    """Append one row to the table after every validation."""

    def __init__(self, output: Path, run: dict[str, object]) -> None:
        self.output = output
        self.run = run
        self.start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: anomalib_daad.Daad) -> None:
        """Score the test split and write the row."""
        seconds = time.perf_counter() - self.start
        labels, maps, masks, fused, largest, parts = [], [], [], [], [], []
        for batch in trainer.datamodule.test_dataloader():
            pl_module.pre_processor.on_test_batch_start(trainer, pl_module, batch, 0)
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                scores = pl_module.model.scores(batch.image)
                output = pl_module.model(batch.image)
            parts.append(torch.stack([score.float() for score in scores if score is not None], dim=1))
            fused.append(output.pred_score.float())
            largest.append(output.anomaly_map.float().amax(dim=(1, 2, 3)))
            maps.append(output.anomaly_map.float().flatten())
            masks.append(batch.gt_mask.flatten())
            labels.append(batch.gt_label)
        label = torch.cat(labels).numpy()
        parts = torch.cat(parts)
        row = {
            **self.run,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(seconds),
            "auroc_R": roc_auc_score(label, parts[:, 0]),
            "auroc_L": roc_auc_score(label, parts[:, 1]) if parts.shape[1] > 1 else None,
            "auroc_fused": roc_auc_score(label, torch.cat(fused)),
            "auroc_map_max": roc_auc_score(label, torch.cat(largest)),
            "auroc_pixel": roc_auc_score(torch.cat(masks).numpy(), torch.cat(maps).numpy()),
        }
        self.start += time.perf_counter() - self.start - seconds  # this callback's own time does not count
        row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        is_new = not self.output.exists()
        with self.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--results", default="results")
    arguments, overrides = parser.parse_known_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    for category in arguments.categories:
        cli = AnomalibCLI(
            [
                *("fit", "--config", arguments.config, "--default_root_dir", arguments.results),
                *("--data.init_args.root", arguments.root, "--data.init_args.category", category, *overrides),
            ],
            run=False,
        )
        model = cli.model
        run = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "commit": commit.stdout.strip(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "config": Path(arguments.config).name,
            "overrides": " ".join(overrides),
            "category": category,
            "image_size": "x".join(map(str, model.model.image_size)),
            "seed": model.seed,
        }
        callbacks = cli.engine._cache.args["callbacks"]  # noqa: SLF001
        callbacks.append(RecordScores(arguments.output, run))
        cli.engine.fit(model, datamodule=cli.datamodule)


if __name__ == "__main__":
    main()

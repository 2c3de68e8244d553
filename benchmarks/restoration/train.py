# SPDX-License-Identifier: Apache-2.0

"""What a training of DaadRestoration, or of a peer, reaches on test images, and the time it took, one row a training.

Rows are appended, so that trainings of several commits stand in one table. Pixels are judged at 128 px. ``cpu_seconds``
are of the training, and do not depend on what else runs; ``peak_mb`` is of the whole process.

Changes of the design are judged by this protocol, at most twelve of them:

- Development sets: bottle, transistor, magnetic_tile, and the four drawn products of ``tests/drawn_products.py``.
  Screw is looked at once, at the end. 32 channels, 1000 steps of 8 images, 256 px, one thread.
- A change stays if it raises the mean image AUROC of the seven sets by 0.01 with seed 0, and again with seed 1, takes
  at most 1.25 times the time of an image, and at most 1.5 times that of a training. Otherwise it gets a row in
  ``docs/restoration_tried.md``. What changes the score alone is judged on the same trained networks.
- The questions, in this order: (1) the comparison sees images twice as fine as the restoration does; (2) the error of
  colour alone is a map of R too, asked last, in place of what (1) had answered; (3) L is the mean of the comparison's
  strongest 0.5%; (4) L is its mean probability; (5) one of these is a third part of the score; (6) the comparison has
  twice the channels; (7) more fine lines and specks among the corruptions; (8) maps are standardised by good images
  that the networks were not trained on; (9) images are corrupted before they are made smaller, so that lines a pixel
  wide are among the corruptions, and leave detail; (10) each map is divided by what a small network, which sees the
  restoration alone, expects there of good images; (11) the comparison learns how much a pixel changed, in place of
  whether it did visibly; (12) the first question again, with 8 channels at the comparison's finest scale, which costs
  an image a few percent, and 2000 steps with and without it.

Example:
    python benchmarks/restoration/train.py bottle screw --root datasets/MVTecAD --seeds 0 1 --output runs.csv
    python benchmarks/restoration/train.py sheet --root datasets/drawn --image_size 1024 --tile_size 256 \
        --judged_at 512 --eval_batch_size 1 --channels 32 --steps 500 --output large_images.csv
    python benchmarks/restoration/train.py bottle --peer Padim --output peers.csv
"""

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning import seed_everything
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import DaadRestoration
from anomalib_daad.commands.compare.contestant import Contestant
from anomalib_daad.commands.shared.machine import describe_commit, describe_machine
from anomalib_daad.commands.shared.output_folder import Row, read_table, write_table
from anomalib_daad.commands.shared.pixel_measures import measure_pixels


class SomeImages(MVTecAD):
    """MVTec AD's layout, with so many of the training images, spread evenly; None for all."""

    images: int | None = None

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        if self.images:
            chosen = np.linspace(0, len(self.train_data) - 1, self.images).round().astype(int)
            self.train_data.subsample(chosen.tolist(), inplace=True)


def build(arguments: argparse.Namespace, seed: int) -> AnomalibModule:
    """Build DaadRestoration, or a peer with the same images and a ResNet-18."""
    if arguments.peer:
        seed_everything(seed)  # PaDiM draws its features
        weights = arguments.backbone_weights
        return Contestant.parse(arguments.peer).build(
            arguments.image_size, seed, backbone="resnet18", backbone_weights=weights
        )
    return DaadRestoration(
        arguments.image_size,
        arguments.downscale,
        arguments.channels,
        tile_size=arguments.tile_size,
        seed=seed,
        visualizer=False,
    )


def train(arguments: argparse.Namespace, category: str, seed: int) -> tuple[AnomalibModule, MVTecAD, list[float]]:
    """Train as ``anomalib train`` does; the model, its data, and the training's seconds, by clock and by processor."""
    datamodule = SomeImages(
        arguments.root, category, train_batch_size=8, eval_batch_size=arguments.eval_batch_size, num_workers=0
    )
    datamodule.images = arguments.images
    model = build(arguments, seed)
    # A peer's bank is filled before it is validated.
    length = {"limit_val_batches": 1} if arguments.peer else {"max_steps": arguments.steps, "limit_val_batches": 0}
    starts = time.perf_counter(), time.process_time()
    Engine(
        **length,
        precision=arguments.precision,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=arguments.checkpoints / f"{category}_{seed}",
    ).fit(model, datamodule=datamodule)
    ends = time.perf_counter(), time.process_time()
    return model.eval(), datamodule, [end - start for start, end in zip(starts, ends, strict=True)]


@torch.no_grad()
def judge(model: AnomalibModule, datamodule: MVTecAD, size: int) -> Row:
    """Measure the test images, pixels at a size."""
    scores, labels, maps, masks = [], [], [], []
    for batch in datamodule.test_dataloader():
        output = model.model(model.pre_processor(batch.image))
        scores.append(output.pred_score.flatten())
        labels.append(batch.gt_label)
        maps.append(interpolate(output.anomaly_map.float(), (size, size), mode="bilinear"))
        masks.append(interpolate(batch.gt_mask[:, None].float(), size)[:, 0] > 0)
    pixels = measure_pixels(torch.cat(maps), torch.cat(masks))
    return {
        "image_AUROC": round(float(roc_auc_score(torch.cat(labels), torch.cat(scores))), 4),
        "pixel_AUROC": round(pixels["auroc_pixel"], 4),
        "AUPRO": round(pixels["aupro"], 4),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Train each category with each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("categories", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--images", type=int, help="Train on so many of the images, spread evenly.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--downscale", type=int, default=4)
    parser.add_argument("--tile_size", type=int)
    parser.add_argument("--eval_batch_size", type=int, default=16)
    parser.add_argument("--judged_at", type=int, default=128)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--peer", help="One of anomalib's models, in place of DaadRestoration.")
    parser.add_argument("--backbone_weights", type=Path, help="A peer's, as safetensors.")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for category in arguments.categories:
            model, datamodule, seconds = train(arguments, category, seed)
            own = {
                "channels": arguments.channels,
                "networks_px": (arguments.tile_size or arguments.image_size) // arguments.downscale,
            }
            row: Row = {
                **({"peer": arguments.peer} if arguments.peer else own),
                "image_size": arguments.image_size,
                "tile_size": arguments.tile_size,
                "category": category,
                "seed": seed,
                **({} if arguments.peer else {"steps": arguments.steps}),
                "training_images": len(datamodule.train_data),
                "threads": torch.get_num_threads(),
                "seconds": round(seconds[0], 1),
                "cpu_seconds": round(seconds[1], 1),
                **judge(model, datamodule, arguments.judged_at),
                "precision": arguments.precision,
                "commit": describe_commit(),
                "machine": describe_machine("cpu"),
            }
            print(row, flush=True)
            write_table([*(read_table(arguments.output) if arguments.output.exists() else []), row], arguments.output)


if __name__ == "__main__":
    main()

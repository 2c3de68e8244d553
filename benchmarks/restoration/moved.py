# SPDX-License-Identifier: Apache-2.0

"""What a trained model still finds when products lie a little elsewhere than the ones it was trained on.

All test images, good and defective, are moved by some pixels, each in another of eight directions, or turned to one
side and the other, with their borders repeated; thresholds have no part in the measures. Give ``CLASS:CATEGORY:FILE``
for each checkpoint: ``Daad``, ``Patchcore``, ``Padim`` or another model of anomalib. A ``DaadRestoration`` can also be
told how to find parts: ``registered``, ``searched`` or ``unmoved``, in place of what its training images decided.

Example:
    python benchmarks/restoration/moved.py DaadRestoration:bottle:bottle.ckpt --root datasets/MVTecAD \
        --output moved.csv --pixels 0 8 16 24 --degrees 1 3 5 --ways registered searched unmoved
"""

import argparse
import os
from itertools import cycle
from pathlib import Path
from typing import Any

import anomalib.models
import torch
from anomalib.data import MVTecAD
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

import anomalib_daad  # noqa: F401  # adds its models to anomalib's
from anomalib_daad.commands.shared.output_folder import Row, write_table
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.models.daad_restoration.movement import move, turn

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
MASK_SIZE = 128
WAYS = ("as trained", "registered", "searched", "unmoved")


@torch.no_grad()
def judge(model: torch.nn.Module, datamodule: MVTecAD, pixels: int, degrees: float) -> Row:
    """Judge a model on test images that are moved or turned."""
    scores, labels, maps, masks = [], [], [], []
    directions, sides = cycle(DIRECTIONS), cycle((degrees, -degrees))
    for batch in datamodule.test_dataloader():
        for image, mask, label in zip(batch.image, batch.gt_mask, batch.gt_label, strict=True):
            rows, columns = (torch.tensor([pixels * step]) for step in next(directions))
            angle = torch.tensor([next(sides)])
            output = model.model(model.pre_processor(turn(move(image[None], rows, columns), angle)))
            scores.append(output.pred_score.flatten())
            labels.append(label)
            maps.append(interpolate(output.anomaly_map.float(), (MASK_SIZE, MASK_SIZE), mode="bilinear"))
            moved = turn(move(mask[None, None].float(), rows, columns), angle)
            masks.append(interpolate(moved, MASK_SIZE)[0] > 0.5)
    image_auroc = float(roc_auc_score(torch.stack(labels), torch.cat(scores)))
    return {"image_AUROC": round(image_auroc, 4), **measure_pixels(torch.cat(maps), torch.cat(masks))}


def tell(model: Any, way: str) -> None:
    """Tell a DaadRestoration how to find parts."""
    network = model.model
    if way == "as trained":
        return
    network.registration = network.registration if way == "registered" else None
    network.placement = network.placement if way == "searched" else None
    for part in (network.registration, network.placement):
        if part is not None:
            part.is_settled = True


def main() -> None:
    """Write one row for each checkpoint, way and distance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pixels", type=int, nargs="+", default=[0, 2, 4, 8], help="of the images as they are on disk")
    parser.add_argument("--degrees", type=float, nargs="*", default=[], help="turned, and not moved")
    parser.add_argument("--ways", nargs="+", default=["as trained"], choices=WAYS)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for text in arguments.checkpoints:
        name, category, path = text.split(":", 2)
        datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
        datamodule.setup()
        for way in arguments.ways:
            model = getattr(anomalib.models, name).load_from_checkpoint(path, map_location="cpu").eval()
            tell(model, way)
            for pixels, degrees in [*((it, 0.0) for it in arguments.pixels), *((0, it) for it in arguments.degrees)]:
                row: Row = {"model": name, "category": category, "way": way, "pixels": pixels, "degrees": degrees}
                rows.append(row | judge(model, datamodule, pixels, degrees))
                print(rows[-1], flush=True)
                write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

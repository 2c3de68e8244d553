# SPDX-License-Identifier: Apache-2.0

"""What each map of a trained DaadRestoration is worth, and pictures of what it does.

Ranges are those of the good test images, anomalib's default. Pixels are judged at the networks' size, or at
``--mask_size``: models of other sizes are compared at one, their maps enlarged linearly.

Example:
    python benchmarks/restoration/parts.py --root datasets/MVTecAD --output parts.csv --mask_size 128 \
        --pictures pictures bottle:0:bottle.ckpt transistor:0:transistor.ckpt
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import MVTecAD
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import DaadRestoration
from anomalib_daad.commands.shared.output_folder import Row, write_table
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.components.gaussian_blur import maximum
from anomalib_daad.models.daad_restoration.detail import COLOURS
from anomalib_daad.models.daad_restoration.difference_maps import Maps

DEFECTS = 10  # in a picture


class Judged(NamedTuple):
    """Test images, their restorations and standardised maps, each ``(n, C, h, w)``, R(x), labels and masks."""

    images: torch.Tensor
    restored: torch.Tensor
    structure: torch.Tensor
    detail: torch.Tensor
    comparison: torch.Tensor
    error: torch.Tensor
    colour: torch.Tensor
    differences: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


@torch.no_grad()
def judge(model: DaadRestoration, datamodule: MVTecAD, mask_size: int | None) -> Judged:
    """Restore and compare the test images; what is returned lies in the main memory."""
    network, device = model.model, next(model.parameters()).device
    rows = []
    for batch in datamodule.test_dataloader():
        placed = network.place(model.pre_processor(batch.image.to(device)))
        defects = network.comparison(placed.images, placed.restorations)
        found = placed.back(network.maps(placed.images, placed.restorations, defects))
        maps = Maps(*found.split(1, dim=1))
        masks = interpolate(batch.gt_mask[:, None].float(), mask_size or found.shape[-2:])[:, 0] > 0
        shown = (placed.images[:, :COLOURS], placed.restorations[:, :COLOURS])
        colour = torch.zeros_like(maps.error) if maps.colour is None else maps.colour
        kinds = (maps.structure, maps.detail, maps.comparison, maps.error, colour, maps.differences())
        rows.append(
            Judged(*(one.cpu() for one in (*shown, *kinds, maps.scores().reconstruction)), batch.gt_label, masks)
        )
    return Judged(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def scale(values: torch.Tensor, good: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scale maps or scores by the range that scores have on good images, as eq. 7."""
    low, high = scores[good].aminmax()
    return (values - low) / (high - low)


def measure(it: Judged) -> tuple[Row, torch.Tensor]:
    """Judge every map's strongest point, the score, and maps by pixels; the anomaly map, too."""
    good, strongest = it.labels == 0, maximum(it.comparison)
    comparison = scale(it.comparison, good, strongest)
    structure = (it.structure + it.detail) / 2
    fused = (scale(it.differences, good, it.scores) + comparison) / 2
    scores = {
        "structure": maximum(it.structure),
        "detail": maximum(it.detail),
        "error": maximum(it.error),
        "colour": maximum(it.colour),
        "comparison": strongest,
        "R": it.scores,
        "score": scale(it.scores, good, it.scores) + scale(strongest, good, strongest),
        "fused_map": maximum(fused),
    }
    row: Row = {name: round(roc_auc_score(it.labels, score), 4) for name, score in scores.items()}
    maps = {"structure": structure, "comparison": it.comparison, "error": it.error, "fused": fused}
    for name, small_map in maps.items():
        anomaly_map = interpolate(small_map, it.masks.shape[-2:], mode="bilinear")
        row |= {f"{key}_{name}": value for key, value in measure_pixels(anomaly_map, it.masks).items()}
        # Light of whole images has no part in this one.
        pairs = [(mask, a) for mask, a in zip(it.masks, anomaly_map, strict=True) if mask.any()]
        within = [roc_auc_score(mask.flatten(), a.flatten()) for mask, a in pairs]
        row[f"pixel_AUROC_within_{name}"] = round(float(np.mean(within)), 4)
    return row, fused


def draw(it: Judged, fused: torch.Tensor, path: Path) -> None:
    """Draw defective images spread over the test set: image, restoration, structure, comparison, whole map, mask."""
    chosen = torch.nonzero(it.labels).flatten()
    chosen = chosen[torch.linspace(0, len(chosen) - 1, DEFECTS).round().long()]
    good = it.labels == 0
    heat = [scale(one, good, maximum(one)) for one in (it.structure, it.comparison)]
    columns = [
        it.images / 2 + 0.5,
        it.restored / 2 + 0.5,
        *((one / 2).clamp(0, 1).expand(-1, 3, -1, -1) for one in (*heat, fused)),
        interpolate(it.masks[:, None].float(), it.images.shape[-2:]).expand(-1, 3, -1, -1),
    ]
    grid = torch.cat([torch.cat(list(column[chosen]), dim=2) for column in columns], dim=1)
    Image.fromarray((grid.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    """Write one row a checkpoint, given as CATEGORY:SEED:FILE."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--mask_size", type=int, help="height and width at which pixels are judged")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    for text in arguments.checkpoints:
        category, seed, path = text.split(":", 2)
        datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
        datamodule.setup()
        model = DaadRestoration.load_from_checkpoint(path, map_location=device).eval()
        it = judge(model, datamodule, arguments.mask_size)
        row, fused = measure(it)
        rows.append({"category": category, "seed": seed, "channels": model.hparams["base_channels"], **row})
        print(rows[-1], flush=True)
        write_table(rows, arguments.output)
        if arguments.pictures is not None:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            draw(it, fused, arguments.pictures / f"{category}_{seed}.png")


if __name__ == "__main__":
    main()

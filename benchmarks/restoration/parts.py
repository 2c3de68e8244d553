# SPDX-License-Identifier: Apache-2.0

"""What each score of a restoration model is worth, on the same trained networks, and pictures of what it does.

Ranges are those of the good test images, anomalib's default for MVTec AD. Pixels are judged at the model's size, or at
``--mask_size``: models of other sizes are compared at one, their maps enlarged linearly.

Example:
    python benchmarks/restoration/parts.py --root datasets/MVTecAD --output parts.csv --pictures pictures \
        bottle:0:bottle.ckpt transistor:0:transistor.ckpt
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import MVTecAD
from kornia.metrics import ssim
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import Daad
from anomalib_daad.anomaly_map import AnomalyMap, maximum
from anomalib_daad.models.daad_restoration.detail import COLOURS
from anomalib_daad.models.daad_restoration.light import light
from anomalib_daad.commands.shared.output_folder import Row, write_table
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.torch_model import ERROR_WEIGHT

DEFECTS = 10  # in a picture
SSIM_WINDOW = 7
CONTRAST = 0.25  # of all images, where light is taken out


class Judged(NamedTuple):
    """Test images and their maps, each ``(n, ..., H, W)``, scores R(x), labels and masks."""

    images: torch.Tensor
    restored: torch.Tensor
    structure: torch.Tensor
    relative_structure: torch.Tensor
    error: torch.Tensor
    ssim: torch.Tensor
    comparison: torch.Tensor
    whole: torch.Tensor  # the structure map, and the error where the model adds it
    scores: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


@torch.no_grad()
def judge(model: Daad, datamodule: MVTecAD, mask_size: int | None) -> Judged:
    """Restore and compare the test images; what is returned lies in the main memory."""
    network, device = model.model, next(model.parameters()).device
    error_map = AnomalyMap(float(model.hparams["map_sigma"])).to(device)
    rows = []
    for batch in datamodule.test_dataloader():
        placed = network.in_place(model.pre_processor(batch.image.to(device)))
        seen, its_restored = placed.images, placed.restorations  # with detail, where the model downscales
        found = network.maps(seen, its_restored, network.comparison(seen, its_restored))
        found = found.each(placed.back)
        structure = found.reconstruction.mean(dim=1, keepdim=True)
        images, restored = seen[:, :COLOURS], its_restored[:, :COLOURS]
        mean, contrast = light(images)
        whole = structure if found.error is None else structure + ERROR_WEIGHT * found.error
        masks = interpolate(batch.gt_mask[:, None].float(), mask_size or images.shape[-2:])[:, 0] > 0
        dissimilarity = 1 - ssim(images / 2 + 0.5, restored / 2 + 0.5, SSIM_WINDOW).mean(dim=1, keepdim=True)
        others = (
            network.anomaly_map(*(CONTRAST * (x - mean) / contrast for x in (images, restored))),
            error_map(images, restored),
            network.anomaly_map.blur(dissimilarity),
        )
        maps = (structure, *(placed.back(anomaly_map) for anomaly_map in others), found.comparison, whole)
        on_device = (images, restored, *maps, network.strongest(found))
        rows.append(Judged(*(one.cpu() for one in on_device), batch.gt_label, masks))
    return Judged(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def scale(values: torch.Tensor, good: torch.Tensor, scores: torch.Tensor | None = None) -> torch.Tensor:
    """Scale maps or scores by the range that scores, or the maps' maxima, have on good images, as eq. 7."""
    low, high = (maximum(values) if scores is None else scores)[good].aminmax()
    return (values - low) / (high - low)


def fuse(it: Judged) -> torch.Tensor:
    """Anomaly map as the model fuses it; what is added to the structure map has the range of R(x)."""
    good = it.labels == 0
    return 0.5 * scale(it.whole, good, it.scores) + 0.5 * scale(it.comparison, good)


def measure(it: Judged) -> Row:
    """Judge every score and map."""
    good = it.labels == 0
    structure, comparison = scale(it.structure, good), scale(it.comparison, good)
    fused = fuse(it)
    without_error = 0.5 * structure + 0.5 * comparison
    scores = {
        "mean_error": (it.images - it.restored).square().mean(dim=(1, 2, 3)),
        "mean_relative_error": ((it.images - it.restored) / light(it.images).contrast).square().mean(dim=(1, 2, 3)),
        "maximum_error": maximum(it.error),
        "maximum_ssim": maximum(it.ssim),
        "maximum_structure": maximum(it.structure),
        "maximum_relative_structure": maximum(it.relative_structure),
        "comparison": maximum(it.comparison),
        "reconstruction": it.scores,
        "sum_of_maxima": scale(it.scores, good, it.scores) + maximum(comparison),
        "fused_map": maximum(fused),
    }
    row: Row = {name: round(roc_auc_score(it.labels, score), 4) for name, score in scores.items()}
    maps = {"structure": it.structure, "comparison": it.comparison, "without_error": without_error, "fused": fused}
    for name, small_map in maps.items():
        anomaly_map = interpolate(small_map, it.masks.shape[-2:], mode="bilinear")
        row |= {f"{key}_{name}": value for key, value in measure_pixels(anomaly_map, it.masks).items()}
        # Light of whole images has no part in this one.
        pairs = [(mask, a) for mask, a in zip(it.masks, anomaly_map, strict=True) if mask.any()]
        within = [roc_auc_score(mask.flatten(), a.flatten()) for mask, a in pairs]
        row[f"pixel_AUROC_within_{name}"] = round(float(np.mean(within)), 4)
    return row


def draw(it: Judged, path: Path) -> None:
    """Draw defective images spread over the test set: image, restoration, structure, comparison, whole map, mask."""
    chosen = torch.nonzero(it.labels).flatten()
    chosen = chosen[torch.linspace(0, len(chosen) - 1, DEFECTS).round().long()]
    good = it.labels == 0
    scaled = [scale(it.structure, good), scale(it.comparison, good), fuse(it)]
    heat = [(m / 2).clamp(0, 1).expand(-1, 3, -1, -1) for m in scaled]
    masks = interpolate(it.masks[:, None].float(), it.images.shape[-2:])
    columns = [it.images / 2 + 0.5, it.restored / 2 + 0.5, *heat, masks.expand(-1, 3, -1, -1)]
    grid = torch.cat([torch.cat(list(column[chosen]), dim=2) for column in columns], dim=1)
    Image.fromarray((grid.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    """Write one row a checkpoint, given as CATEGORY:SEED:FILE."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--plain_maps", action="store_true", help="do not standardise the maps")
    parser.add_argument("--mask_size", type=int, help="height and width at which pixels are judged")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for text in arguments.checkpoints:
        category, seed, path = text.split(":", 2)
        datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
        datamodule.setup()
        model = Daad.load_from_checkpoint(path, map_location=device).eval()
        if arguments.plain_maps:
            model.model.standardization, model.model.error_map = None, False
        it = judge(model, datamodule, arguments.mask_size)
        is_standardized = model.model.standardization is not None
        rows.append({"category": category, "seed": seed, "standardized_maps": is_standardized, **measure(it)})
        print({name: np.round(value, 3) if isinstance(value, float) else value for name, value in rows[-1].items()})
        write_table(rows, arguments.output)
        if arguments.pictures is not None:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            draw(it, arguments.pictures / f"{category}_{seed}.png")


if __name__ == "__main__":
    main()

"""The alignment distance of DAAD+ as a map: what each layer of the discriminator says of where a defect is.

Of each layer's features the squared differences between image and reconstruction are averaged over the channels,
enlarged to the image's size and blurred; the image's score is the strongest point. Beside them: L(x) as one number
(eq. 6), R(x), and the maps that the package has.

Example:
    python docs/benchmarks/restoration/alignment.py --root datasets/MVTecAD --output alignment.csv bottle:0:bottle.ckpt
"""

import argparse
from pathlib import Path

import torch
from anomalib.data import MVTecAD
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import Daad
from anomalib_daad.anomaly_map import AnomalyMap, maximum
from anomalib_daad.loss import sample_distance
from anomalib_daad.output_folder import Row, write_table
from anomalib_daad.pixel_measures import measure_pixels

SIGMA = 2.0  # pixels


@torch.no_grad()
def judge(model: Daad, datamodule: MVTecAD) -> list[Row]:
    """Judge the scores and maps of one model."""
    network, size = model.model, model.model.image_size
    error, structure = AnomalyMap(SIGMA), AnomalyMap(SIGMA, structure=True)
    scores: dict[str, list[torch.Tensor]] = {}
    maps: dict[str, list[torch.Tensor]] = {}
    labels, masks = [], []
    for batch in datamodule.test_dataloader():
        images = model.pre_processor(batch.image)
        rebuilt = network.autoencoder(images)
        layers = zip(network.discriminator.layers(images), network.discriminator.layers(rebuilt), strict=True)
        found = {"squared error": error(images, rebuilt), "structure": structure(images, rebuilt)}
        for first, second in layers:
            distance = (first - second).square().mean(dim=1, keepdim=True)
            name = f"alignment, {distance.shape[-2]}x{distance.shape[-1]}"
            found[name] = error.blur(interpolate(distance, size, mode="bilinear"))
        numbers = {"R(x)": sample_distance(images, rebuilt), "L(x)": sample_distance(first, second)}
        for name, value in numbers.items():
            scores.setdefault(name, []).append(value)
        for name, value in found.items():
            maps.setdefault(name, []).append(value)
        labels.append(batch.gt_label)
        masks.append(interpolate(batch.gt_mask[:, None].float(), size)[:, 0] > 0)
    target, mask = torch.cat(labels).int(), torch.cat(masks)
    rows: list[Row] = [
        {"score": name, "image_AUROC": round(roc_auc_score(target, torch.cat(value)), 4)}
        for name, value in scores.items()
    ]
    for name, value in maps.items():
        anomaly_map = torch.cat(value)
        auroc = round(roc_auc_score(target, maximum(anomaly_map)), 4)
        rows.append({"score": name, "image_AUROC": auroc, **measure_pixels(anomaly_map, mask)})
    return rows


def main() -> None:
    """Write the rows of each checkpoint, given as CATEGORY:SEED:FILE."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--root", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for text in arguments.checkpoints:
        category, seed, path = text.split(":", 2)
        datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
        datamodule.setup()
        model = Daad.load_from_checkpoint(path, map_location="cpu").eval()
        rows += [{"category": category, "seed": seed, **row} for row in judge(model, datamodule)]
        write_table(rows, arguments.output)
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""Whether thresholds from good images reject as many further good ones as they promise.

The good test images, which no training saw, are halved at random 20 times: one half sets the threshold, the other is
judged. Small halves can promise no small rate; what they promise stands beside what was rejected.

With --update a model that was trained under one light gets 20 good images under another, from one side, by
``anomalib-daad update``. Its first threshold is from every second good test image. False alarms and misses are counted
under both lights: among the good test images that had no part in a threshold or an update, and all defective ones.

Example:
    python benchmarks/restoration/false_alarms.py bottle:bottle.ckpt screw:screw.ckpt --root datasets/MVTecAD \
        --output false_alarms.csv
    python benchmarks/restoration/false_alarms.py bottle:bottle.ckpt --root datasets/MVTecAD --update train \
        --rate 0.1 --output calibrated.csv
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomalib_daad import DaadRestoration, FalseAlarmPostProcessor
from anomalib_daad.commands.shared.image_files import read_pixels
from anomalib_daad.commands.shared.machine import describe_commit, describe_machine
from anomalib_daad.commands.shared.opened_model import Images, OpenedModel
from anomalib_daad.commands.shared.output_folder import Row, read_table, write_table
from anomalib_daad.commands.update.update_model import update
from anomalib_daad.training.conformal_threshold import Rates

LIGHTS = ("as trained", "from one side, 2/3 to 4/3")
UPDATES = ("updated", "updated with old images")
NEW, OLD = 20, 40  # good images that an update is given
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


def relit(files: Sequence[Path], light: str, folder: Path) -> Path:
    """Write images under a light."""
    folder.mkdir()
    for index, file in enumerate(files):
        image = np.asarray(Image.open(file).convert("RGB"), np.float64)
        if light != LIGHTS[0]:
            image = image * np.linspace(2 / 3, 4 / 3, image.shape[1])[None, :, None]
        Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")
    return folder


def judge(checkpoint: Path, good: Path, defective: Path) -> Row:
    """Count false alarms and misses, and measure the image AUROC."""
    opened = OpenedModel(checkpoint)
    found = [opened.judge(sorted(it.iterdir()), Images([], read_pixels)).scores for it in (good, defective)]
    rejected = [int(opened.reject(scores).sum()) for scores in found]
    labels = np.repeat([0, 1], [len(scores) for scores in found])
    return {
        "image_AUROC": round(float(roc_auc_score(labels, torch.cat(found))), 4),
        "false_alarms": rejected[0],
        "good_images": len(found[0]),
        "missed": len(found[1]) - rejected[1],
        "defective_images": len(found[1]),
    }


def compare_updates(
    category: str, checkpoint: Path, root: Path, source: str, rate: float, kinds: Sequence[str] = UPDATES
) -> list[Row]:
    """Judge a model before and after updates, without and with old images."""
    parts = {it: sorted((root / category / it / "good").iterdir()) for it in ("train", "test")}
    defective = sorted(it for it in (root / category / "test").glob("*/*") if it.parent.name != "good")
    deciding, others = parts["test"][::2], parts["test"][1::2]
    chance = np.random.default_rng(0)
    order = [parts["train"][index] for index in chance.permutation(len(parts["train"]))]
    new = order[:NEW] if source == "train" else others[::2][:NEW]
    held_out = {
        LIGHTS[0]: [it for it in others if it not in new],
        LIGHTS[1]: [it for it in parts["test"] if it not in new],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = OpenedModel(checkpoint)
        opened.take_thresholds(opened.judge(deciding, Images([], read_pixels)), Rates(rate, 0.001))
        models = {it: folder / f"{it}.ckpt" for it in ("before", *kinds)}
        opened.save(models["before"])
        images, old = relit(new, LIGHTS[1], folder / "new"), relit(order[NEW : NEW + OLD], LIGHTS[0], folder / "old")
        for kind in kinds:
            update(models["before"], images, old if kind == UPDATES[1] else None, rate, output=models[kind])
        rows: list[Row] = []
        for number, (light, good) in enumerate(held_out.items()):
            sets = [relit(it, light, folder / f"{number}{kind}") for it, kind in ((good, "good"), (defective, "bad"))]
            about: Row = {"category": category, "light": light, "with": source, "calibration_images": len(new)}
            rows += [{**about, "model": it, "rate": rate, **judge(path, *sets)} for it, path in models.items()]
    return rows


def main() -> None:
    """Write rows for each checkpoint: one for each rate, or of updates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="CATEGORY:FILE")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--update", choices=["train", "test"], help="where the images under another light are from")
    parser.add_argument("--kinds", nargs="+", choices=UPDATES, default=UPDATES, help="of updates")
    parser.add_argument("--rate", type=float, default=0.01, help="of updates")
    arguments = parser.parse_args()
    rows: list[Row] = read_table(arguments.output) if arguments.update and arguments.output.exists() else []
    for text in arguments.checkpoints:
        category, path = text.split(":", 1)
        about: Row = {"commit": describe_commit(), "machine": describe_machine("cpu")}
        if arguments.update:
            about["command"] = shlex.join(["python", *(Path(it).name if os.sep in it else it for it in sys.argv)])
            found = compare_updates(
                category, Path(path), arguments.root, arguments.update, arguments.rate, arguments.kinds
            )
            rows += [row | about for row in found]
        else:
            datamodule = MVTecAD(arguments.root, category, eval_batch_size=16, num_workers=0)
            datamodule.setup()
            scores = score(DaadRestoration.load_from_checkpoint(path, map_location="cpu"), datamodule)
            rows += [{"category": category, **split(scores, rate), **about} for rate in RATES]
        print(*rows[-2 * len(RATES) :], sep="\n", flush=True)
        write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""What ``anomalib-daad calibrate`` makes of a DaadRestoration under another light.

Every second good test image, none of which was trained on, is for calibration; the others count false alarms, with all
defective ones for the image AUROC. All of them are changed alike. Before, the model is calibrated with the same images
under the light that it was trained under. ``--good train`` calibrates with training images, which score lower than new
ones: false alarms then show what that costs.

Example:
    python benchmarks/restoration/calibrated.py model.ckpt --data datasets/MVTecAD/bottle --output calibrated.csv
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomalib_daad.commands.calibrate.calibrate_model import calibrate
from anomalib_daad.commands.shared.output_folder import Row, read_table, write_table
from anomalib_daad.commands.shared.trained_model import load_model

LIGHTS = {
    "as trained": lambda image: image,
    "a third darker": lambda image: image * 2 / 3,
    "a third brighter, clipped": lambda image: image * 4 / 3,
    "from one side, 2/3 to 4/3": lambda image: image * np.linspace(2 / 3, 4 / 3, image.shape[1])[None, :, None],
}


def relit(files: list[Path], light: str, folder: Path) -> list[Path]:
    """Write images under another light."""
    folder.mkdir()
    for index, file in enumerate(files):
        image = LIGHTS[light](np.asarray(Image.open(file).convert("RGB"), np.float64))
        Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")
    return sorted(folder.iterdir())


@torch.no_grad()
def judge(checkpoint: Path, good: list[Path], defective: list[Path]) -> Row:
    """Count false alarms and misses, and measure the image AUROC."""
    model = load_model(checkpoint)
    scores = []
    for file in [*good, *defective]:
        pixels = torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)[None]
        scores.append(float(model.model(model.pre_processor(pixels)).pred_score))
    labels, found = np.arange(len(scores)) >= len(good), np.array(scores)
    rejected = found > float(model.post_processor.image_threshold)
    return {
        "image_AUROC": round(float(roc_auc_score(labels, found)), 4),
        "false_alarms": int(rejected[~labels].sum()),
        "good_images": len(good),
        "missed": int((~rejected[labels]).sum()),
        "defective_images": len(defective),
    }


def main() -> None:
    """Write two rows for each light, as trained and calibrated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--good", choices=["test", "train"], default="test", help="images to calibrate with")
    parser.add_argument("--lights", nargs="+", choices=LIGHTS, default=list(LIGHTS))
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--output", type=Path, required=True, help="rows are added to it")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    run = {
        "command": shlex.join(["python", *(Path(it).name if os.sep in it else it for it in sys.argv)]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    rows: list[Row] = read_table(arguments.output) if arguments.output.exists() else []
    good = sorted((arguments.data / "test/good").iterdir())
    defective = sorted(it for it in (arguments.data / "test").glob("*/*") if it.parent.name != "good")
    for_calibration = sorted((arguments.data / "train/good").iterdir()) if arguments.good == "train" else good[::2]
    with tempfile.TemporaryDirectory() as name:
        before, images = Path(name, "before.ckpt"), Path(name, "before")
        relit(for_calibration, "as trained", images)
        calibrate(arguments.checkpoint, images, arguments.rate, output=before)
        for number, light in enumerate(arguments.lights):
            folder = Path(name, str(number))
            folder.mkdir()
            relit(for_calibration, light, folder / "good")
            held_out = relit(good[1::2], light, folder / "held_out")
            odd = relit(defective, light, folder / "odd")
            calibrate(before, folder / "good", arguments.rate, output=folder / "after.ckpt")
            for model, file in (("before", before), ("calibrated anew", folder / "after.ckpt")):
                row: Row = {"category": arguments.data.name, "light": light, "model": model, "with": arguments.good}
                row |= {"calibration_images": len(for_calibration), "rate": arguments.rate}
                rows.append(row | judge(file, held_out, odd) | run)
                print(rows[-1], flush=True)
                write_table(rows, arguments.output)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

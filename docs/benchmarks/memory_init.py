# SPDX-License-Identifier: Apache-2.0

"""How the initial memory items change what DAAD learns: its reconstruction error on training images.

Example:
    python docs/benchmarks/memory_init.py --images datasets/MVTecAD/bottle/train/good --steps 150 \
        --output docs/benchmarks/memory_init.csv
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from anomalib.data.utils import read_image
from torchvision.transforms.v2.functional import resize

from anomalib_daad.loss import sample_distance
from anomalib_daad.torch_model import DaadModel


def train(images: torch.Tensor, memory_init: str, steps: int) -> list[float]:
    """Mean square reconstruction error of every step."""
    torch.manual_seed(0)
    model = DaadModel((128, 128), adversarial=False, memory_init=memory_init).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(steps):
        batch = images[torch.randint(len(images), (8,), generator=generator)]
        with torch.autocast("cpu", torch.bfloat16):
            reconstructions = model(batch).reconstructions
        optimizer.zero_grad()
        sample_distance(batch, reconstructions, "l2").mean().backward()
        optimizer.step()
        errors.append(sample_distance(batch, reconstructions, "mse").mean().item())
    return errors


def main() -> None:
    """Write one row for every initialisation and 50 steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    paths = sorted(arguments.images.glob("*.png"))
    images = torch.stack([resize(read_image(path, as_tensor=True), [128, 128], antialias=True) for path in paths])
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["memory_init", "steps", "mean_square_error"])
        for memory_init in ("normal", "uniform"):
            errors = train(images * 2 - 1, memory_init, arguments.steps)
            for start in range(0, arguments.steps, 50):
                mean = np.mean(errors[start : start + 50])
                writer.writerow([memory_init, f"{start + 1} to {start + 50}", round(float(mean), 5)])


if __name__ == "__main__":
    main()

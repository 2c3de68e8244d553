# SPDX-License-Identifier: Apache-2.0

"""How many blocks MemAe's memory answers at the start of a training, by its shrinkage and the size of the images.

Example:
    python benchmarks/paper/shrinkage.py --root datasets --output benchmarks/paper/shrinkage.csv
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from addressing import load
from torch.nn.functional import interpolate

from anomalib_daad import MemAe
from anomalib_daad.commands.shared.output_folder import write_table

RUNS = [(64, 1.0, 200), (64, 2.0, 200), (64, 3.0, 200), (64, 5.0, 200), (256, 5.0, 100)]  # size, shrinkage, steps


def train(size: int, shrinkage: float, steps: int, images: torch.Tensor) -> dict[str, Any]:
    """Train with 16 channels at 5e-4, and look at what the memory gives the last batch."""
    if size != images.shape[-1]:
        images = interpolate(images, (size, size), mode="bilinear")
    model = MemAe((size, size), base_channels=16, seed=0, shrinkage=shrinkage, learning_rate=5e-4).train()
    optimizer = model.configure_optimizers()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = images[torch.randperm(len(images), generator=generator)[:8]]
        optimizer.zero_grad()
        model.losses(batch).losses[0].backward()
        optimizer.step()
    rebuilt, reads = model.model.reconstruct_for_losses(batch)
    weights = reads[0].weights.detach().flatten(0, 1)
    return {
        "image_size": size,
        "shrinkage": shrinkage,
        "steps": steps,
        "blocks_without_item": round(float((weights.sum(1) == 0).float().mean()), 3),
        "items_of_a_block": round(float((weights > 0).sum(1).float().mean()), 2),
        "items_in_use": round(float((weights > 0).any(0).float().mean()), 3),
        "mean_square_error": round(float((rebuilt - batch).square().mean()), 4),
    }


def main() -> None:
    """Write one row a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    images = load(arguments.root, "bottle")[0]
    write_table([train(*run, images) for run in RUNS], arguments.output)


if __name__ == "__main__":
    main()

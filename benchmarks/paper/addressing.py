# SPDX-License-Identifier: Apache-2.0

"""How a memory is addressed: eq. 1 as printed, against what MemAE's code does, against sharper cosines.

Protocol, written before the first run.

Question: does the block memory reconstruct good images better than defects, and more so than no memory, if it may
choose its items?

Runs: the systems of ``SYSTEMS`` on bottle, transistor, magnetic_tile and screw; 64 px, 4 scales, 16 channels (chosen
for the hours at hand, by one AE on bottle, seed 99), r = 4, N = 500, batches of 8 without the last incomplete one,
flips, Adam at 5e-4, float32, 1500 steps, seeds 0, 1, 2 in this order; after seed 0 first of AE, eq. 1, inner product
and cosine at 0.05, so that they have all seeds if time ends. Then the reading that wins at r = 1 and 2 (8 does
not divide the coarsest features of 64 px), and an AE on bottle that keeps the incomplete batch.

Measures: image AUROC of R(x), after each epoch, in evaluation mode, as norm and as mean absolute error. A system's
number is the mean over sets and seeds of the mean of its last ten epochs. The best epoch on the test set, and batch
statistics at test time, are written down as a diagnosis and decide nothing.

Rule: the reading of the block memory with the highest number becomes Daad's default if its lead over eq. 1 exceeds the
standard error over seeds of that lead. Otherwise eq. 1 stays.

Stop: after all runs, or 12 hours of two cores. With fewer seeds than three for all systems, the seeds that all have
are compared.

Example:
    python benchmarks/paper/addressing.py --root datasets --output addressing.csv
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from anomalib_daad.components.autoencoder import MemoryAutoencoder, memory_of
from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.components.distance import sample_distance

SETS = ("bottle", "transistor", "magnetic_tile", "screw")
_SHARP = {"init": "uniform", "renormalize": True}
_INNER = {**_SHARP, "similarity": "inner_product"}
_PIXELS = {"connections": "bottleneck_memory", "rates": None}
SYSTEMS: dict[str, dict[str, Any]] = {
    "AE": {"connections": "none"},
    "eq. 1": {},
    "inner product": _INNER,
    "cosine, T = 0.05": {**_SHARP, "temperature": 0.05},
    "cosine, T = 0.1": {**_SHARP, "temperature": 0.1},
    "eq. 1, uniform, L1": _SHARP,
    "MemAE": _PIXELS,
    "MemAE, inner product": {**_PIXELS, **_INNER},
}


class Run(NamedTuple):
    """One training."""

    system: str
    category: str
    seed: int
    rate: int = 4
    steps: int = 1500
    drop_last: bool = True
    flips: bool = True
    learning_rate: float = 5e-4
    channels: int = 16


def load(root: Path, category: str) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Read a category at 64 px: training images, test images in the order of their folders, labels."""
    folder = next(path.parents[1] for path in root.rglob("train/good") if path.parents[1].name == category)

    def read(pattern: str) -> tuple[torch.Tensor, list[str]]:
        paths = sorted(path for path in folder.glob(pattern) if path.suffix in {".png", ".jpg"})
        images = [resize(pil_to_tensor(Image.open(path).convert("RGB")), [64, 64]) for path in paths]
        return torch.stack(images) / 127.5 - 1, [path.parent.name for path in paths]

    test, kinds = read("test/*/*")
    return read("train/good/*")[0], test, np.array([kind != "good" for kind in kinds])


def build(run: Run) -> MemoryAutoencoder:
    """Build the network of a run."""
    options = dict(SYSTEMS[run.system])
    connections = options.pop("connections", "memory")
    rates = options.pop("rates", (run.rate, run.rate, 1))
    torch.manual_seed(run.seed)
    network = MemoryAutoencoder((64, 64), rates, memory_of(500, **options), run.channels, connections)
    return network.to(memory_format=torch.channels_last)


def batches(images: torch.Tensor, run: Run, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch of batches of 8, each image flipped by a coin for each axis."""
    order = torch.randperm(len(images), generator=generator)
    whole = len(order) - len(order) % 8 if run.drop_last else len(order)
    for index in order[:whole].split(8):
        batch = images[index]
        if run.flips:
            for axis in (2, 3):
                coin = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
                batch = torch.where(coin, batch.flip(axis), batch)
        yield batch.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def scores(network: MemoryAutoencoder, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """R(x) as norm and as mean absolute error, batches of 8 in the order given."""
    parts = [(batch, network(batch)) for batch in images.split(8)]
    norm = torch.cat([sample_distance(batch, rebuilt) for batch, rebuilt in parts])
    return norm, torch.cat([(batch - rebuilt).abs().mean(dim=(1, 2, 3)) for batch, rebuilt in parts])


@torch.no_grad()
def memory_use(network: MemoryAutoencoder, images: torch.Tensor) -> dict[str, str]:
    """Largest weight times N, effective items, and share of items in use, fine to coarse, joined by spaces."""
    measures: dict[str, list[str]] = {"largest_weight_times_n": [], "effective_items": [], "items_in_use": []}
    memories = [memory for memory in network.memories if isinstance(memory, BlockMemory)]
    reads = network.reconstruct(images[:: max(1, len(images) // 32)]).reads
    for memory, read in zip(memories, reads, strict=True):
        weights = read.weights.flatten(0, 1)
        shares = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        measures["largest_weight_times_n"].append(f"{weights.amax(1).mean() * memory.items.shape[0]:.2f}")
        measures["effective_items"].append(f"{torch.special.entr(shares).sum(1).exp().mean():.1f}")
        measures["items_in_use"].append(f"{(weights > 0).any(0).float().mean():.3f}")
    return {name: " ".join(values) for name, values in measures.items()}


def diagnose(network: MemoryAutoencoder, test: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """AUROC of R with batch statistics, which no user could have: in the order of folders, and shuffled."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    in_order = roc_auc_score(labels, scores(network, test)[0])
    shuffled = roc_auc_score(labels[order.numpy()], scores(network, test[order])[0])
    network.load_state_dict(state)
    return {"batch_statistics_in_order": round(in_order, 4), "batch_statistics_shuffled": round(shuffled, 4)}


def train(run: Run, root: Path) -> dict[str, Any]:
    """Train and test after each epoch; one row, its epochs joined by spaces."""
    images, test, labels = load(root, run.category)
    network = build(run)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(run.seed)
    curves: dict[str, list[str]] = {"auroc_R": [], "auroc_absolute": []}
    step, start = 0, time.perf_counter()
    while step < run.steps:
        network.train()
        for batch in batches(images, run, generator):
            optimizer.zero_grad()
            (50 * sample_distance(batch, network(batch)).mean()).backward()
            optimizer.step()
            step += 1
            if step == run.steps:
                break
        network.eval()
        for curve, measured in zip(curves.values(), scores(network, test), strict=True):
            curve.append(f"{roc_auc_score(labels, measured):.4f}")
    return {
        **run._asdict(),
        **{name: " ".join(curve) for name, curve in curves.items()},
        **memory_use(network, test),
        **diagnose(network, test, labels),
        "seconds": round(time.perf_counter() - start),
        "commit": os.environ.get("COMMIT", ""),
    }


def append(row: dict[str, Any], path: Path) -> None:
    """Append a row to a table, and print it."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


def runs(winner: str | None) -> list[Run]:
    """List all runs, in the order of the protocol; those of the winner once it is known."""
    first = list(SYSTEMS)[:4]
    order = [(0, SYSTEMS), (1, first), (2, first), (1, SYSTEMS), (2, SYSTEMS)]
    listed = [Run(system, category, seed) for seed, systems in order for system in systems for category in SETS]
    listed = list(dict.fromkeys(listed))
    if winner:
        listed += [Run(winner, category, seed, rate) for seed in range(3) for rate in (1, 2) for category in SETS]
    return listed + [Run("AE", "bottle", seed, drop_last=False) for seed in range(3)]


def main() -> None:
    """Run what is not in the output yet; several processes share the work by ``--part``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--winner", choices=SYSTEMS)
    parser.add_argument("--part", default="0/1", help="i/n: every n-th run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, of = map(int, arguments.part.split("/"))
    done: set[tuple[str, ...]] = set()
    if arguments.output.exists():
        with arguments.output.open() as file:
            done = {tuple(row[name] for name in Run._fields) for row in csv.DictReader(file)}
    for run in runs(arguments.winner)[part::of]:
        if tuple(map(str, run)) in done:
            continue
        append(train(run, arguments.root), arguments.output)


if __name__ == "__main__":
    main()

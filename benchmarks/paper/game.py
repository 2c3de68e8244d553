# SPDX-License-Identifier: Apache-2.0

"""What the discriminator adds to DAAD: DAAD+ as implemented, and with the game in another balance.

Protocol, written before the first run.

Question: does DAAD+ score better than DAAD with the memory that addressing.py decided for, and does a distance that is
a root of the mean square, or L_ali in the discriminator's loss as well, change that?

Runs: the games of ``GAMES`` on bottle, transistor, magnetic_tile and screw, otherwise as in addressing.py; seeds 0, 1.

Measures: image AUROC of R(x), L(x) and the fused score, gamma = 0.9, ranges of the good training images, after each
epoch. A game's number is the mean over sets and seeds of the mean of the last ten epochs of the fused score.

Rule: a game other than the norm becomes the design of Daad if its number leads by more than the standard error over
sets and seeds of that lead. None becomes an option.

Example:
    python benchmarks/paper/game.py --root datasets --reading "cosine, T = 0.05" --output game.csv
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from addressing import SETS, SYSTEMS, Run, append, batches, build, load
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from anomalib_daad.components.autoencoder import MemoryAutoencoder
from anomalib_daad.components.distance import sample_distance
from anomalib_daad.models.daad.discriminator import Discriminator

GAMES = {"norm": (False, False), "root of the mean": (True, False), "root of the mean, L_ali in D": (True, True)}
LAMBDAS = (50.0, 0.5, 0.5)


def distance(first: torch.Tensor, second: torch.Tensor, mean: bool) -> torch.Tensor:
    """Norm of the difference, or root of its mean square, of each sample."""
    return sample_distance(first, second) / (first[0].numel() ** 0.5 if mean else 1.0)


def step(
    networks: tuple[MemoryAutoencoder, Discriminator], optimizers: Any, images: torch.Tensor, mean: bool, ali: bool
) -> None:
    """One step of both networks, all gradients at the same weights."""
    autoencoder, discriminator = networks
    rec, adv, lambda_ali = LAMBDAS
    rebuilt = autoencoder(images)
    real, fake = discriminator(images), discriminator(rebuilt)
    ones, zeros = torch.ones_like(fake.logits), torch.zeros_like(fake.logits)
    alignment = distance(real.features.detach(), fake.features, mean).mean()
    generator = rec * distance(images, rebuilt, mean).mean() + lambda_ali * alignment
    generator = generator + adv * binary_cross_entropy_with_logits(fake.logits, ones)
    judge = binary_cross_entropy_with_logits(real.logits, ones) + binary_cross_entropy_with_logits(fake.logits, zeros)
    if ali:
        judge = judge + lambda_ali * distance(real.features, fake.features, mean).mean()
    parameters = [list(network.parameters()) for network in networks]
    gradients = torch.autograd.grad(generator, parameters[0], retain_graph=True)
    others = torch.autograd.grad(judge, parameters[1])
    for group, found, optimizer in zip(parameters, (gradients, others), optimizers, strict=True):
        for parameter, gradient in zip(group, found, strict=True):
            parameter.grad = gradient
        optimizer.step()


@torch.no_grad()
def parts(networks: tuple[MemoryAutoencoder, Discriminator], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """R(x) and L(x)."""
    autoencoder, discriminator = networks
    pairs = [(batch, autoencoder(batch)) for batch in images.split(16)]
    features = [(discriminator.features(batch), discriminator.features(rebuilt)) for batch, rebuilt in pairs]
    both = ([sample_distance(*pair) for pair in pairs], [sample_distance(*pair) for pair in features])
    return torch.cat(both[0]), torch.cat(both[1])


def train(run: Run, game: str, root: Path) -> dict[str, Any]:
    """Train and test after each epoch; one row, its epochs joined by spaces."""
    images, test, labels = load(root, run.category)
    networks = (build(run), Discriminator((64, 64), run.channels).to(memory_format=torch.channels_last))
    optimizers = [torch.optim.Adam(network.parameters(), lr=run.learning_rate, fused=True) for network in networks]
    generator = torch.Generator().manual_seed(run.seed)
    curves: dict[str, list[str]] = {"auroc_R": [], "auroc_L": [], "auroc_fused": []}
    done, start = 0, time.perf_counter()
    while done < run.steps:
        for network in networks:
            network.train()
        for batch in batches(images, run, generator):
            step(networks, optimizers, batch, *GAMES[game])
            done += 1
            if done == run.steps:
                break
        for network in networks:
            network.eval()
        good, found = parts(networks, images[:: max(1, len(images) // 64)]), parts(networks, test)
        scaled = [(x - own.min()) / (own.max() - own.min()) for x, own in zip(found, good, strict=True)]
        measured = (*found, 0.9 * scaled[0] + 0.1 * scaled[1])
        for curve, values in zip(curves.values(), measured, strict=True):
            curve.append(f"{roc_auc_score(labels, values):.4f}")
    joined = {name: " ".join(curve) for name, curve in curves.items()}
    seconds = round(time.perf_counter() - start)
    return {**run._asdict(), "game": game, **joined, "seconds": seconds, "commit": os.environ.get("COMMIT", "")}


def main() -> None:
    """Run what is not in the output yet; several processes share the work by ``--part``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--reading", choices=SYSTEMS, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="i/n: every n-th run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, of = map(int, arguments.part.split("/"))
    listed = [(seed, game, category) for seed in range(2) for game in GAMES for category in SETS]
    for seed, game, category in listed[part::of]:
        append(train(Run(arguments.reading, category, seed), game, arguments.root), arguments.output)


if __name__ == "__main__":
    main()

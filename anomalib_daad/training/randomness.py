# SPDX-License-Identifier: Apache-2.0

"""Random numbers that can be repeated: of initial weights, of an epoch, of flips."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything

from .lightning_internals import restart_training_data, shuffled_before_the_epoch


def seed_epoch(trainer: Trainer, seed: int) -> None:
    """Seed an epoch, so that its data order and random numbers do not depend on where training started.

    Args:
        trainer (Trainer): Trainer at the start of an epoch.
        seed (int): Seed of the training.
    """
    entropy = [seed, trainer.current_epoch, trainer.global_rank]
    seed_everything(int(np.random.SeedSequence(entropy).generate_state(1)[0]), verbose=False)
    if shuffled_before_the_epoch(trainer):
        restart_training_data(trainer)


def random_flips(images: torch.Tensor) -> torch.Tensor:
    """Flip each image horizontally and vertically with a probability of one half each (section 4.1).

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.

    Returns:
        torch.Tensor: Flipped images, same shape.
    """
    for dim in (-1, -2):
        coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(coins, images.flip(dim), images)
    return images


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Make random numbers repeatable and leave the global random state alone.

    Args:
        seed (int | None): Seed; None does nothing.
    """
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        yield

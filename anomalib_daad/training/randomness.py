# SPDX-License-Identifier: Apache-2.0

"""Random numbers that can be repeated: of initial weights, of an epoch, of flips."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from .lightning_internals import restart_training_data, shuffled_before_the_epoch


class KeepRandomState(Callback):
    """Leaves the process's random numbers as they were before a seeded training, or a validation, test or prediction.

    A search over learning rates that draws from them would otherwise try one value again and again.
    """

    def __init__(self) -> None:
        self._before: tuple[Any, ...] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the state, unless a training without a seed is to move it on.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Model.
            stage (str): ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        """
        del trainer
        if stage != TrainerFn.FITTING or getattr(pl_module, "seed", None) is not None:
            cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
            self._before = (random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore it.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Not used.
            stage (str): Not used.
        """
        del trainer, pl_module, stage
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore it where a training fails or is interrupted.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Not used.
            exception (BaseException): Not used.
        """
        del trainer, pl_module, exception
        self._restore()

    def _restore(self) -> None:
        if self._before is None:
            return
        python, numpy, cpu, cuda = self._before
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        self._before = None


def seed_epoch(trainer: Trainer, seed: int) -> None:
    """Seed an epoch, so that its data order and random numbers do not depend on where training started.

    Args:
        trainer (Trainer): Trainer at the start of an epoch.
        seed (int): Seed of the training.
    """
    entropy = [seed, trainer.current_epoch, trainer.global_rank]
    number = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)  # transforms of others read the global state
    torch.manual_seed(number)
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

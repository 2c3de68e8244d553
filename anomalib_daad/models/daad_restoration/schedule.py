# SPDX-License-Identifier: Apache-2.0

"""Learning rate of a restoration training: it rises over the first tenth and falls to zero along a cosine.

Example:
    >>> [round(annealed(step, 100), 3) for step in (0, 9, 50, 100)]
    [0.1, 0.98, 0.5, 0.0]
"""

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Timer

from anomalib_daad.training.lightning_internals import find_time_limit

WARM_UP = 0.1  # share of a training


def schedule(trainer: Any) -> Callable[[int], float]:
    """Make the schedule of a training whose length a trainer announces.

    A function and no object: PyTorch writes the attributes of objects into checkpoints, and a resumed training would
    keep the length that it had before.

    Args:
        trainer (Any): Trainer: its steps and epochs count, and its time where that ends sooner.

    Returns:
        Callable[[int], float]: Learning rate of each step, relative to its largest, in (0, 1].

    Raises:
        ValueError: If the training has no end.
    """
    steps = float(trainer.estimated_stepping_batches)
    timer = find_time_limit(trainer)
    if math.isinf(steps) and timer is None:
        msg = "Restoration training needs to know how long it is: set max_steps, max_epochs or max_time."
        raise ValueError(msg)

    def rate(step: int) -> float:
        return annealed(step, min(steps, _steps_in_time(timer, step)))

    return rate


def _steps_in_time(timer: Timer | None, step: int) -> float:
    """Steps that there is time for at the pace so far; at one a second before the first."""
    remaining = None if timer is None else timer.time_remaining()
    if timer is None or remaining is None:
        return math.inf
    pace = timer.time_elapsed() / step if step else 1.0  # seconds a step
    return step + max(remaining, 1.0) / max(pace, 1e-9)


def annealed(step: int, steps: float) -> float:
    """Learning rate relative to its largest.

    Args:
        step (int): Steps done.
        steps (float): Steps of the whole training, at least 1.

    Returns:
        float: In (0, 1].
    """
    steps = max(1.0, steps)
    progress = min(1.0, step / steps)
    return min((progress + 1 / steps) / WARM_UP, (1 + math.cos(math.pi * progress)) / 2 + 1e-6)

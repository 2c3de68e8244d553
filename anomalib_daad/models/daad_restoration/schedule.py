# SPDX-License-Identifier: Apache-2.0

"""Learning rate of a restoration training: it rises over the first tenth and falls to zero along a cosine.

Example:
    >>> [round(annealed(step, 100), 3) for step in (0, 9, 50, 100)]
    [0.1, 0.98, 0.5, 0.0]
"""

import math
from typing import Any

from anomalib_daad.training.lightning_internals import find_time_limit

WARM_UP = 0.1  # share of a training


class Schedule:
    """Learning rate of each step, relative to its largest, over the length that a trainer announces.

    Args:
        trainer (Any): Trainer: its steps and epochs count, and its time where that ends sooner.

    Raises:
        ValueError: If the training has no end.
    """

    def __init__(self, trainer: Any) -> None:
        self.steps = float(trainer.estimated_stepping_batches)
        self.timer = find_time_limit(trainer)
        if math.isinf(self.steps) and self.timer is None:
            msg = "Restoration training needs to know how long it is: set max_steps, max_epochs or max_time."
            raise ValueError(msg)

    def __call__(self, step: int) -> float:
        """Compute the learning rate.

        Args:
            step (int): Steps done.

        Returns:
            float: In (0, 1].
        """
        return annealed(step, min(self.steps, self._steps_in_time(step)))

    def _steps_in_time(self, step: int) -> float:
        """Steps that there is time for at the pace so far; at one a second before the first."""
        remaining = None if self.timer is None else self.timer.time_remaining()
        if self.timer is None or remaining is None:
            return math.inf
        pace = self.timer.time_elapsed() / step if step else 1.0  # seconds a step
        return step + max(remaining, 1.0) / max(pace, 1e-9)


def annealed(step: int, steps: float) -> float:
    """Learning rate relative to its largest.

    Args:
        step (int): Steps done.
        steps (float): Steps of the whole training.

    Returns:
        float: In (0, 1].
    """
    progress = min(1.0, step / steps)
    return min((progress + 1 / steps) / WARM_UP, (1 + math.cos(math.pi * progress)) / 2 + 1e-6)

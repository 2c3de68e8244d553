# SPDX-License-Identifier: Apache-2.0

"""How far a training in another process is, and how long it will still take."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from anomalib_daad.commands.shared.output_folder import write_text

EVERY = 1.0  # seconds between two notes
MINUTE = 60


class Progress(Callback):
    """Note down after training steps, at most once a second, how far the training is.

    Args:
        path (Path): Text file; one sentence for people.
        steps (int): Training steps of the whole training.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.steps = steps
        self.started = self.noted = time.monotonic()
        self.first = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock; a training that goes on has done some steps already."""
        del pl_module
        self.started = self.noted = time.monotonic()
        self.first = trainer.fit_loop.total_batch_idx + 1

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Write the note; one that cannot be written is left out."""
        del args
        now = time.monotonic()
        done = trainer.fit_loop.total_batch_idx + 1
        if now - self.noted < EVERY or done <= self.first:
            return
        self.noted = now
        left = (now - self.started) / (done - self.first) * max(0, self.steps - done)
        with suppress(OSError):
            write_text(self.path, f"{min(1, done / self.steps):.0%} trained, {duration(left)} left")


def duration(seconds: float) -> str:
    """Say how long something takes.

    Args:
        seconds (float): Not negative.

    Returns:
        str: In seconds below two minutes, in minutes above.
    """
    return f"{seconds:.0f} s" if seconds < 2 * MINUTE else f"{seconds / MINUTE:.0f} min"

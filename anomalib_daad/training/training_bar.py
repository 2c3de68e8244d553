# SPDX-License-Identifier: Apache-2.0

"""One progress bar for a whole training: Lightning's starts anew with every epoch, which may be of three steps."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PERIOD = 300.0  # seconds of which the pace is the mean: a validation must not look like the end of all progress


class TrainingBar(Callback):
    """Shows steps, time and time left of a whole training where Lightning's own bar would show those of an epoch.

    A progress bar of a user's own stays, and none stays none. Tests and predictions have Lightning's bar.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._set_aside: ProgressBar | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set Lightning's bar aside.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Not used.
        """
        del pl_module
        bar = trainer.progress_bar_callback
        is_own = type(bar).__module__.partition(".")[0] in {"lightning", "anomalib"}  # anomalib changes Lightning's
        if isinstance(bar, RichProgressBar | TQDMProgressBar) and is_own and bar.is_enabled:
            bar.disable()
            self._set_aside = bar

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the training begins or goes on.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Not used.
        """
        del pl_module
        if self._set_aside is None:
            return
        time = (TimeElapsedColumn(), TextColumn("• left"), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *time)
        self._progress = Progress(*columns, TextColumn("{task.fields[metrics]}"), speed_estimate_period=PERIOD)
        steps = trainer.estimated_stepping_batches
        total = steps if math.isfinite(steps) else None
        self._progress.add_task("Training", total=total, completed=trainer.global_step, metrics="")
        self._progress.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show a step.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Not used.
            args: Not used.
        """
        del pl_module, args
        if self._progress is not None:
            metrics = " ".join(f"{name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items())
            self._progress.update(self._progress.task_ids[0], completed=trainer.global_step, metrics=metrics)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is, and give Lightning's back to what follows.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Not used.
        """
        del trainer, pl_module
        if self._progress is not None:
            self._progress.stop()
        if self._set_aside is not None:
            self._set_aside.enable()
        self._progress = self._set_aside = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same where a training fails or is interrupted.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
            exception (BaseException): Not used.
        """
        del exception
        self.on_fit_end(trainer, pl_module)

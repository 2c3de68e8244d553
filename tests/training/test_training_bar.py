# SPDX-License-Identifier: Apache-2.0

"""One bar of a whole training, in place of Lightning's of each epoch."""

import io
import re

import pytest
from conftest import make_model
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich import reconfigure

from anomalib_daad.training.training_bar import TrainingBar


class Watch(Callback):
    """What the bar says at the end of the training, and whether Lightning's is used."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.said: list[tuple[float, float | None]] = []

    def on_train_end(self, trainer, pl_module) -> None:
        del pl_module
        (bar,) = (it for it in trainer.callbacks if isinstance(it, TrainingBar))
        self.said = [(task.completed, task.total) for task in bar._progress.tasks] if bar._progress else []
        self.others = trainer.progress_bar_callback
        self.was_enabled = getattr(self.others, "is_enabled", False)
        if self.fails:
            raise RuntimeError("stop")


@pytest.fixture
def screen():
    """What is written to a terminal."""
    stream = io.StringIO()
    reconfigure(file=stream, force_terminal=True, width=120)
    yield stream
    reconfigure()


def train(make_engine, make_datamodule, **arguments) -> Watch:
    watch = Watch(arguments.pop("fails", False))
    callbacks = [watch, *arguments.pop("callbacks", [])]
    engine = make_engine(**{"enable_progress_bar": True, "callbacks": callbacks, **arguments})
    engine.fit(make_model(), datamodule=make_datamodule())
    return watch


@pytest.mark.parametrize("length", [{"max_steps": 7}, {"max_epochs": 2}])
def test_steps_of_the_whole_training_are_counted(screen, make_engine, make_datamodule, length) -> None:
    watch = train(make_engine, make_datamodule, **length)
    steps = length.get("max_steps", 6)  # 12 images in batches of 4
    assert watch.said == [(steps, steps)]
    assert not watch.was_enabled
    assert watch.others.is_enabled  # for what follows
    shown = screen.getvalue()
    assert re.search(rf"Training.*{steps}/{steps}.*0:00:\d\d.*left.*train_\w+ ", shown)
    assert "Epoch" not in shown


def test_a_training_that_goes_on_begins_where_it_was(screen, make_engine, make_datamodule) -> None:
    engine = make_engine(max_steps=4)
    engine.fit(make_model(), datamodule=make_datamodule())
    engine.trainer.save_checkpoint("part.ckpt")
    watch = Watch()
    other = make_engine(max_steps=8, enable_progress_bar=True, callbacks=[watch])
    other.fit(make_model(), datamodule=make_datamodule(), ckpt_path="part.ckpt")
    assert watch.said == [(8, 8)]
    assert "4/8" in screen.getvalue()


class Own(RichProgressBar):
    """A user's."""


@pytest.mark.parametrize("bar", [Own, TQDMProgressBar])
@pytest.mark.usefixtures("screen")
def test_a_users_own_bar_stays(bar, make_engine, make_datamodule) -> None:
    watch = train(make_engine, make_datamodule, max_epochs=1, callbacks=[bar()])
    assert watch.was_enabled == (bar is Own)
    assert bool(watch.said) == (bar is not Own)


@pytest.mark.usefixtures("screen")
def test_none_stays_none(make_engine, make_datamodule) -> None:
    watch = train(make_engine, make_datamodule, max_epochs=1, enable_progress_bar=False)
    assert (watch.others, watch.said) == (None, [])


@pytest.mark.usefixtures("screen")
def test_lightnings_bar_is_back_after_a_failure(make_engine, make_datamodule) -> None:
    watch = Watch(fails=True)
    engine = make_engine(max_epochs=1, enable_progress_bar=True, callbacks=[watch])
    with pytest.raises(RuntimeError, match="stop"):
        engine.fit(make_model(), datamodule=make_datamodule())
    assert watch.said
    assert watch.others.is_enabled

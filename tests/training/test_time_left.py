# SPDX-License-Identifier: Apache-2.0

"""The time that a whole training has left."""

from types import SimpleNamespace

import pytest
from conftest import make_model

from anomalib_daad.training import time_left
from anomalib_daad.training.time_left import TimeLeft


class Clock:
    """Seconds that pass with the steps alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def walk(callback: TimeLeft, clock: Clock, total: float, seconds: list[float], first: int = 0) -> list[float]:
    """Steps that take so long; what is shown after each."""
    shown = []
    model = SimpleNamespace(log=lambda name, value, **_: shown.append((name, value)))
    trainer = SimpleNamespace(estimated_stepping_batches=total, global_step=first)
    callback.on_train_start(trainer, model)
    for length in seconds:
        clock.now += length
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, model)
    assert {name for name, _ in shown} <= {"min_left"}
    return [value for _, value in shown]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_left, "time", clock)
    return clock


def test_the_first_steps_do_not_count(clock) -> None:
    assert walk(TimeLeft(), clock, 100, [50, 50, 6, 6, 6]) == [9.7, 9.6, 9.5]


def test_a_training_that_goes_on_has_less_left(clock) -> None:
    assert walk(TimeLeft(), clock, 100, [9, 9, 6], first=80) == [1.7]


def test_without_an_end_nothing_is_shown(clock) -> None:
    assert walk(TimeLeft(), clock, float("inf"), [1, 1, 1]) == []


@pytest.mark.parametrize(("total", "is_told"), [(5000, True), (700, False)])
def test_more_than_an_hour_is_said_once_and_soon(clock, caplog, total, is_told) -> None:
    walk(TimeLeft(), clock, total, [1.0] * 60)
    said = [record.message for record in caplog.records if "about 1.4 hours" in record.message]
    assert len(said) == is_told
    assert all("5000 steps" in it and "--trainer.max_steps" in it for it in said)


def test_every_model_shows_it(make_datamodule, make_engine) -> None:
    engine = make_engine(max_epochs=2)
    engine.fit(make_model(), datamodule=make_datamodule())
    assert engine.trainer.progress_bar_metrics["min_left"] >= 0

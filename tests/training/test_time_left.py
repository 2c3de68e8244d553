# SPDX-License-Identifier: Apache-2.0

"""Warnings of long trainings."""

from types import SimpleNamespace

import pytest

from anomalib_daad.training import time_left
from anomalib_daad.training.time_left import TimeLeft


class Clock:
    """Seconds that pass with the steps alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def walk(callback: TimeLeft, clock: Clock, total: float, seconds: list[float]) -> None:
    """Steps that take so long."""
    trainer = SimpleNamespace(estimated_stepping_batches=total, global_step=0)
    callback.on_train_start(trainer, None)
    for length in seconds:
        clock.now += length
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_left, "time", clock)
    return clock


def test_the_first_steps_do_not_count(clock, caplog) -> None:
    walk(TimeLeft(), clock, 1000, [50, 50, *[1.0] * 60])
    assert not caplog.records


def test_without_an_end_nothing_is_said(clock, caplog) -> None:
    walk(TimeLeft(), clock, float("inf"), [1.0] * 60)
    assert not caplog.records


@pytest.mark.parametrize(("total", "is_told"), [(5000, True), (700, False)])
def test_more_than_an_hour_is_said_once_and_soon(clock, caplog, total, is_told) -> None:
    walk(TimeLeft(), clock, total, [1.0] * 60)
    said = [record.message for record in caplog.records if "about 1.4 hours" in record.message]
    assert len(said) == is_told
    assert all("5000 steps" in it and "--trainer.max_steps" in it for it in said)

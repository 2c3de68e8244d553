# SPDX-License-Identifier: Apache-2.0

"""The learning rate rises and falls over the length of a training, however that is given."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import make_restoration
from lightning.pytorch.callbacks import Callback, Timer

from anomalib_daad import DaadRestoration
from anomalib_daad.models.daad_restoration.schedule import annealed


class Rates(Callback):
    """Records the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        del trainer, batch, batch_idx
        self.rates.append(pl_module.optimizers().param_groups[0]["lr"] / pl_module.learning_rate)


def test_the_learning_rate_rises_and_falls(make_datamodule, make_engine) -> None:
    rates = [annealed(step, 200) for step in range(201)]
    top = int(np.argmax(rates))
    assert 10 <= top <= 20
    assert 0.95 < max(rates) <= 1
    assert rates[0] < 0.1
    assert 0 < rates[-1] < 1e-4
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    model, watch = make_restoration(), Rates()
    make_engine(max_steps=5, callbacks=[watch]).fit(model, datamodule=make_datamodule())
    assert model.lr_schedulers().last_epoch == 5
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(model.learning_rate * annealed(5, 5))
    assert watch.rates == pytest.approx([annealed(step, 5) for step in range(5)])


@pytest.mark.parametrize("given", ["max_time", "Timer"])
def test_a_training_of_limited_time_ends_and_its_learning_rate_falls(given, make_datamodule, make_engine) -> None:
    watch = Rates()
    length = {"seconds": 6}
    arguments = {"max_time": length} if given == "max_time" else {}
    callbacks = [watch] if given == "max_time" else [watch, Timer(duration=length)]
    engine = make_engine(**arguments, callbacks=callbacks, limit_val_batches=0)
    engine.fit(make_restoration(), datamodule=make_datamodule())
    assert 10 < len(watch.rates) == engine.trainer.global_step < 3000
    top = int(np.argmax(watch.rates))
    assert top < len(watch.rates) / 2
    assert watch.rates[top] > 0.8
    assert watch.rates[-1] < 0.1
    thirds = np.array_split(watch.rates[top:], 3)
    assert thirds[0].mean() > thirds[1].mean() > thirds[2].mean()


def test_the_sooner_of_steps_and_time_counts(make_datamodule, make_engine) -> None:
    watch = Rates()
    engine = make_engine(max_steps=6, max_time={"hours": 5}, callbacks=[watch], limit_val_batches=0)
    engine.fit(make_restoration(), datamodule=make_datamodule())
    assert watch.rates[1:] == pytest.approx([annealed(step, 6) for step in range(1, 6)])


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_time": {"seconds": 4}}], ids=str)
def test_a_resumed_training_takes_the_length_that_it_is_given(length, make_datamodule, make_engine) -> None:
    engine = make_engine(**length, limit_val_batches=0)
    engine.fit(make_restoration(), datamodule=make_datamodule())
    path, done = engine.trainer.checkpoint_callback.best_model_path, engine.trainer.global_step
    DaadRestoration.load_from_checkpoint(path)  # nothing but weights and numbers in it
    watch, model = Rates(), make_restoration()
    engine = make_engine(max_steps=done + 8, callbacks=[watch], limit_val_batches=0)
    engine.fit(model, datamodule=make_datamodule(), ckpt_path=path)
    assert watch.rates[1:] == pytest.approx([annealed(step, done + 8) for step in range(done + 1, done + 8)])


def test_a_length_that_nobody_knows_is_refused(make_datamodule, make_engine) -> None:
    with pytest.raises(ValueError, match="set max_steps, max_epochs or max_time"):
        make_engine(max_epochs=-1).fit(make_restoration(), datamodule=make_datamodule())

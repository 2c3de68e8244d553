# SPDX-License-Identifier: Apache-2.0

"""How long a training is where the user said nothing, and that it is what the user said otherwise."""

import pytest
import torch
from anomalib.engine import Engine
from conftest import as_if_trained, make_model, make_restoration
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_daad import Daad, DaadRestoration, MemAe, Mnad
from anomalib_daad.training.lightning_internals import validation_interval


class Stop(Callback):
    """Notes what a training is about to do, and ends it before its first step."""

    def on_train_start(self, trainer, pl_module) -> None:
        del pl_module
        self.found = trainer.max_steps, trainer.max_epochs
        self.validation = trainer.val_check_interval, trainer.check_val_every_n_epoch
        self.steps = trainer.estimated_stepping_batches
        trainer.should_stop = True
        trainer.fit_loop.epoch_loop.max_steps = 0


def start(make_datamodule, make_engine, model=None, **arguments) -> Stop:
    stop = Stop()
    callbacks = [stop, *arguments.pop("callbacks", [])]
    make_engine(callbacks=callbacks, **arguments).fit(model or make_restoration(), datamodule=make_datamodule())
    return stop


def test_nothing_said_is_3000_steps_with_validation_half_way_and_at_the_end(make_datamodule, make_engine) -> None:
    stop = start(make_datamodule, make_engine)
    assert stop.found[0] == stop.steps == 3000
    assert stop.validation == (1500, None)


def test_it_trains_so_many_steps_and_validates_twice(make_datamodule, make_engine, monkeypatch) -> None:
    class Count(Callback):
        def __init__(self) -> None:
            self.at: list[int] = []

        def on_validation_start(self, trainer, pl_module) -> None:
            del pl_module
            self.at.append(trainer.global_step)

    monkeypatch.setattr(DaadRestoration, "default_steps", 10)
    model, count = make_restoration(), Count()
    engine = make_engine(callbacks=[count])
    engine.fit(model, datamodule=make_datamodule())
    assert engine.trainer.global_step == model.lr_schedulers().last_epoch == 10
    assert count.at == [5, 10]
    assert engine.trainer.checkpoint_callback.best_model_path


@pytest.mark.parametrize(
    ("arguments", "steps", "epochs"),
    [
        ({"max_steps": 7, "check_val_every_n_epoch": 2}, 7, -1),
        ({"max_steps": 8, "val_check_interval": 3}, 8, -1),
        ({"max_epochs": 4}, -1, 4),
        ({"max_epochs": 1000}, -1, 1000),
        ({"max_epochs": 4, "max_steps": 50}, 50, 4),
        ({"max_time": {"minutes": 3}}, -1, -1),
        ({"max_time": "00:00:03:00"}, -1, -1),
        ({"callbacks": [Timer(duration={"minutes": 3})]}, -1, -1),
    ],
    ids=lambda value: str(value).partition(" object at ")[0],
)
def test_what_was_said_is_kept(arguments, steps, epochs, make_datamodule, make_engine) -> None:
    stop = start(make_datamodule, make_engine, **arguments)
    assert stop.found[0] == steps
    assert stop.validation == (arguments.get("val_check_interval", 1.0), arguments.get("check_val_every_n_epoch", 1))
    if "max_epochs" in arguments or "max_steps" in arguments:
        assert stop.found[1] in {epochs, None if epochs == -1 else epochs}


@pytest.mark.parametrize(("steps", "interval"), [(8, 4), (7, 7), (1, 1)])
def test_steps_that_were_said_are_validated_half_way_where_there_is_a_half(
    steps, interval, make_datamodule, make_engine
) -> None:
    stop = start(make_datamodule, make_engine, max_steps=steps)
    assert (stop.found[0], stop.validation) == (steps, (interval, None))


def test_early_stopping_is_asked_every_epoch(make_datamodule, make_engine) -> None:
    stopping = EarlyStopping(monitor="pixel_AUROC", mode="max")
    stop = start(make_datamodule, make_engine, callbacks=[stopping])
    assert (stop.found[0], stop.validation) == (3000, (1.0, 1))


def test_a_timer_without_a_duration_says_nothing(make_datamodule, make_engine) -> None:
    assert start(make_datamodule, make_engine, callbacks=[Timer()]).found[0] == 3000


@pytest.mark.parametrize("arguments", [{"val_check_interval": 0.5}, {"check_val_every_n_epoch": 7}], ids=str)
def test_what_was_said_of_validation_is_kept(arguments, make_datamodule, make_engine) -> None:
    stop = start(make_datamodule, make_engine, **arguments)
    assert stop.found[0] == 3000
    assert stop.validation == (arguments.get("val_check_interval", 1.0), arguments.get("check_val_every_n_epoch", 1))


@pytest.mark.parametrize("kind", [Daad, MemAe, Mnad])
def test_other_models_leave_it_to_lightning(kind, make_datamodule, make_engine) -> None:
    model = make_model() if kind is Daad else kind(image_size=(32, 32), num_items=5, base_channels=4)
    stop = start(make_datamodule, make_engine, model)
    assert stop.found == (-1, 1000)


def test_several_trainings_by_one_model(make_datamodule, make_engine) -> None:
    model, stop = make_restoration(), Stop()
    for arguments, steps in (({"max_epochs": 2}, -1), ({}, 3000), ({"max_steps": 4}, 4)):
        make_engine(callbacks=[stop], **arguments).fit(model, datamodule=make_datamodule())
        assert stop.found[0] == steps
    engine: Engine = make_engine(max_epochs=1)
    for _ in range(2):
        engine.fit(model, datamodule=make_datamodule())
        assert (engine.trainer.max_steps, engine.trainer.max_epochs) == (-1, 1)


def test_steps_beside_endless_epochs_are_steps(make_datamodule, make_engine) -> None:
    """The way of configurations that set both."""
    stop = start(make_datamodule, make_engine, max_steps=8, max_epochs=-1)
    assert (stop.found, stop.validation) == ((8, -1), (4, None))


def test_an_endless_training_is_kept(make_datamodule, make_engine) -> None:
    stop = start(make_datamodule, make_engine, make_model(), max_epochs=-1)
    assert stop.found == (-1, -1)


def test_the_fewest_steps_are_kept(make_datamodule, make_engine) -> None:
    assert start(make_datamodule, make_engine, min_steps=4000).found[0] == 4000
    assert start(make_datamodule, make_engine, min_epochs=2).found == (-1, 1000)


@pytest.mark.parametrize("steps", [1, 2, 7, 400, 1499, 1500, 1501, 3000, 5000, 20_000, 20_011])
def test_a_validation_follows_the_last_step_and_few_steps_can_be_lost(steps) -> None:
    interval = validation_interval(steps)
    assert 1 <= interval <= 1500
    assert steps % interval == 0 or steps in {1501, 20_011}  # primes
    assert interval >= min(steps // 2, 350)


def test_without_validation_images_each_epoch_saves_a_checkpoint(make_datamodule, make_engine) -> None:
    engine = make_engine(max_steps=7, limit_val_batches=0)  # two epochs of three steps, and one of one
    engine.fit(make_restoration(), datamodule=make_datamodule())
    assert torch.load(engine.trainer.checkpoint_callback.best_model_path)["global_step"] == 7
    assert (engine.trainer.val_check_interval, engine.trainer.check_val_every_n_epoch) == (1.0, 1)


def test_an_interval_in_time_is_kept(make_datamodule, make_engine) -> None:
    engine = make_engine(max_steps=4, val_check_interval="00:00:00:01")
    engine.fit(make_restoration(), datamodule=make_datamodule())
    assert engine.trainer.global_step == 4


def test_another_models_training_by_the_same_engine_is_its_own(make_datamodule, make_engine) -> None:
    engine = make_engine()
    engine.validate(make_restoration(), datamodule=make_datamodule(), verbose=False)
    stop = Stop()
    engine.trainer.callbacks.append(stop)
    engine.fit(make_model(), datamodule=make_datamodule())
    assert stop.found == (-1, 1000)


def test_a_prediction_and_a_test_are_not_lengthened(make_datamodule, make_engine) -> None:
    engine = make_engine()
    predictions = engine.predict(as_if_trained(make_restoration(visualizer=False)), datamodule=make_datamodule())
    assert all(batch.pred_score.isfinite().all() for batch in predictions)


def test_lightnings_own_trainer_is_asked_alike() -> None:
    model = make_restoration()
    for arguments, steps in (({}, 3000), ({"max_epochs": 3}, -1), ({"max_steps": 9}, 9)):
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
        trainer.state.fn = TrainerFn.FITTING
        model.trainer = trainer
        assert trainer.max_steps == steps
    assert model.default_steps == 3000

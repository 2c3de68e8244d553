# SPDX-License-Identifier: Apache-2.0

"""Trainings that go wrong stop with a sentence, or say so and go on."""

import copy
import logging

import numpy as np
import pytest
import torch
from conftest import make_model, make_restoration
from lightning.pytorch.callbacks import Callback
from torch import nn

from anomalib_daad import MemAe, Mnad
from anomalib_daad.training import divergence
from anomalib_daad.training.divergence import GameWatch, refuse_diverged, warn_if_astray


class Poison(Callback):
    """Turns what a step computes into NaN."""

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what, self.before = step, what, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        del batch, batch_idx
        if trainer.global_step != self.step:
            return
        self.before = copy.deepcopy(dict(pl_module.model.named_parameters()))
        if self.what == "loss":
            pl_module.generator_loss.lambda_rec = torch.nan
        else:
            next(pl_module.model.autoencoder.parameters()).register_hook(lambda gradient: gradient * torch.inf)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("adversarial", [True, False])
def test_a_training_that_diverges_keeps_its_weights_and_its_checkpoint(
    what, adversarial, make_engine, make_datamodule
) -> None:
    model, poison = make_model(adversarial=adversarial), Poison(4, what)
    engine = make_engine(max_epochs=3, callbacks=[poison])
    with pytest.raises(ValueError, match=r"diverged in step 4: .* the last checkpoint is kept"):
        engine.fit(model, datamodule=make_datamodule())
    for name, weight in model.model.named_parameters():
        assert torch.equal(weight, poison.before[name]), name
    kept = torch.load(engine.trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert kept["global_step"] == 3
    weights = [value for key, value in kept["state_dict"].items() if key.startswith("model.autoencoder.")]
    assert all(value.isfinite().all() for value in weights)


def test_finite_numbers_pass() -> None:
    refuse_diverged([torch.tensor(1.0), torch.tensor(2.0)], [torch.ones(3), torch.zeros(2)], 0)
    refuse_diverged([torch.tensor(1.0)], [], 0)


@pytest.mark.parametrize(
    ("level", "words"), [(0.001, "apart without doubt"), (30.0, "is wrong without doubt"), (1.4, None)]
)
def test_a_lost_game_is_said_once(level, words, caplog) -> None:
    watch = GameWatch()
    with caplog.at_level(logging.WARNING, divergence.__name__):
        for _ in range(3 * divergence.WINDOW):
            watch.see(torch.tensor(level))
    assert [words in record.message for record in caplog.records] == ([True] if words else [])


def test_a_training_watches_its_game(make_engine, make_datamodule, monkeypatch, caplog) -> None:
    monkeypatch.setattr(divergence, "WINDOW", 2)
    monkeypatch.setattr(divergence, "WON", 100.0)
    with caplog.at_level(logging.WARNING, divergence.__name__):
        make_engine(max_epochs=1).fit(make_model(), datamodule=make_datamodule())
    assert sum("apart without doubt" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(("scale", "speaks"), [(0.9, False), (1.1, True)])
def test_images_rebuilt_worse_than_their_mean_colour_are_said(scale, speaks, caplog) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 4, 16, 16) + torch.arange(4).view(1, 4, 1, 1)
    deviation = np.sqrt(np.mean([channel.var() for image in images.numpy() for channel in image]))
    error = torch.randn(images.shape)
    error *= scale * deviation / error.square().mean().sqrt()
    with caplog.at_level(logging.WARNING, divergence.__name__):
        warn_if_astray(images, images + error)
    assert [f"is {scale * deviation:.2g}, theirs {deviation:.2g}" in record.message for record in caplog.records] == (
        [True] if speaks else []
    )


class Saturate(Callback):
    """Sets the last layer's weights so high that it gives nothing but -1 and 1."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        del trainer
        network = getattr(pl_module.model, "autoencoder", pl_module.model)
        last = [module for module in network.decoder.modules() if isinstance(module, nn.ConvTranspose2d)][-1]
        nn.init.constant_(last.weight, 100.0)


@pytest.mark.parametrize(
    "model",
    [
        lambda: make_model(adversarial=False, learning_rate=0.01),
        make_restoration,
        lambda: MemAe((32, 32), num_items=10, base_channels=4, learning_rate=0.01, seed=0, shrinkage=1.0),
        lambda: Mnad((32, 32), base_channels=4, learning_rate=0.01, seed=0),
    ],
    ids=["Daad", "DaadRestoration", "MemAe", "Mnad"],
)
@pytest.mark.parametrize("callbacks", [[], [Saturate()]], ids=["trained", "saturated"])
def test_a_training_says_that_it_went_astray(model, callbacks, make_engine, make_datamodule, caplog) -> None:
    with caplog.at_level(logging.WARNING, divergence.__name__):
        make_engine(max_epochs=10, callbacks=callbacks).fit(model(), datamodule=make_datamodule())
    assert sum("Its scores mean little" in record.message for record in caplog.records) == len(callbacks)

# SPDX-License-Identifier: Apache-2.0

"""A training step of DAAD+ is that of its equations."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, make_model
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import logsigmoid

from anomalib_daad import Daad
from anomalib_daad.training import run_checks


class DoubleDaad(Daad):
    """Trains in float64, where rounding cannot turn the sign of one of Adam's first steps."""

    def training_step(self, batch, batch_idx):
        return super().training_step(SimpleNamespace(image=batch.image.double()), batch_idx)


def norm(difference: torch.Tensor) -> torch.Tensor:
    return (difference**2).sum(dim=(1, 2, 3)).sqrt()


class ReferenceStep(Callback):
    """Repeats every training step with gradients and Adam written out, and compares the weights."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        del trainer, batch
        if batch_idx == 0 and not hasattr(self, "moments"):
            self.reference = copy.deepcopy(pl_module.model)
            self.moments = {name: (0.0, 0.0) for name, _ in self.reference.named_parameters()}
            self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        del trainer, outputs, batch_idx
        model, x = self.reference, batch.image.double()
        x_hat = model.autoencoder(x)
        real, fake = model.discriminator(x), model.discriminator(x_hat)
        generator_loss = (
            50 * norm(x - x_hat).mean()
            + 0.5 * -logsigmoid(fake.logits).mean()
            + 0.5 * norm(real.features.detach() - fake.features).mean()
        )
        discriminator_loss = -logsigmoid(real.logits).mean() - logsigmoid(-fake.logits).mean()
        self.steps += 1
        updates = {}
        for prefix, loss in (("autoencoder", generator_loss), ("discriminator", discriminator_loss)):
            names, parameters = zip(*((n, p) for n, p in model.named_parameters() if n.startswith(prefix)), strict=True)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                first, second = self.moments[name]
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                self.moments[name] = (first, second)
                corrected = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
                updates[name] = 2e-4 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= updates[name]
        trained = dict(pl_module.model.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, trained[name].detach(), rtol=0, atol=1e-7, msg=name)


def test_a_training_step_is_eq_3_to_6_and_adam(make_datamodule, make_engine, monkeypatch) -> None:
    monkeypatch.setattr(run_checks, "PRECISIONS", ("64-true",))
    callback = ReferenceStep()
    engine = make_engine(max_epochs=1, callbacks=[callback], limit_val_batches=0, precision="64-true")
    engine.fit(DoubleDaad(**SMALL, flips=False), datamodule=make_datamodule())
    assert callback.steps == 3


@pytest.mark.parametrize(("adversarial", "rate"), [(True, 2e-4), (False, 1e-4)])
def test_learning_rate_defaults_to_the_papers(adversarial, rate) -> None:
    optimizers = make_model(adversarial=adversarial).configure_optimizers()
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [rate] * (1 + adversarial)
    assert make_model(learning_rate=3e-3).configure_optimizers()[0].param_groups[0]["lr"] == 3e-3

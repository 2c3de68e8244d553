# SPDX-License-Identifier: Apache-2.0

"""Losses against eq. 3 to 6 written out."""

import math

import pytest
import torch

from anomalib_daad.models.daad.discriminator import DiscriminatorOutput
from anomalib_daad.models.daad.loss import DiscriminatorLoss, GeneratorLoss


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "images": torch.rand(4, 3, 8, 8),
        "reconstructions": torch.rand(4, 3, 8, 8, requires_grad=True),
        "real": DiscriminatorOutput(torch.randn(4, requires_grad=True), torch.randn(4, 5, 2, 2, requires_grad=True)),
        "fake": DiscriminatorOutput(torch.randn(4, requires_grad=True), torch.randn(4, 5, 2, 2, requires_grad=True)),
    }


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("lambdas", [(50.0, 0.5, 0.5), (1.0, 2.0, 0.0)])
def test_generator_loss_is_the_weighted_sum(batch, lambdas) -> None:
    def norm(difference: torch.Tensor) -> float:
        squares = [x * x for x in difference.flatten().tolist()]
        return math.sqrt(sum(squares))

    rec = sum(norm(x - y) for x, y in zip(batch["images"], batch["reconstructions"], strict=True)) / 4
    ali = sum(norm(x - y) for x, y in zip(batch["real"].features, batch["fake"].features, strict=True)) / 4
    probabilities = [sigmoid(logit) for logit in batch["fake"].logits.tolist()]
    adv = sum(-math.log(p) for p in probabilities) / 4
    expected = lambdas[0] * rec + lambdas[1] * adv + lambdas[2] * ali

    terms = GeneratorLoss(*lambdas)(**batch)
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)
    assert terms.adversarial.item() == pytest.approx(adv, rel=1e-5)
    assert terms.reconstruction.mean().item() == pytest.approx(rec, rel=1e-5)
    assert terms.alignment.mean().item() == pytest.approx(ali, rel=1e-5)


def test_discriminator_loss_is_the_negative_adversarial_loss(batch) -> None:
    real, fake = batch["real"].logits, batch["fake"].logits
    eq5 = (
        sum(math.log(sigmoid(r)) for r in real.tolist()) / 4 + sum(math.log(1 - sigmoid(f)) for f in fake.tolist()) / 4
    )
    assert DiscriminatorLoss()(real, fake).item() == pytest.approx(-eq5, rel=1e-5)


def test_the_generator_pushes_the_logit_up(batch) -> None:
    loss = GeneratorLoss(0, 1, 0)(**batch).total
    (gradient,) = torch.autograd.grad(loss, batch["fake"].logits)
    assert (gradient < 0).all()


def test_no_gradient_reaches_the_real_pass(batch) -> None:
    GeneratorLoss()(**batch).total.backward()
    assert batch["real"].logits.grad is None
    assert batch["real"].features.grad is None
    assert batch["fake"].features.grad.abs().sum() > 0
    assert batch["reconstructions"].grad.abs().sum() > 0


def test_without_discriminator_only_the_reconstruction_counts(batch) -> None:
    terms = GeneratorLoss(lambda_rec=3.0)(batch["images"], batch["reconstructions"])
    squares = ((batch["images"] - batch["reconstructions"]) ** 2).sum(dim=(1, 2, 3))
    torch.testing.assert_close(terms.total, 3 * squares.sqrt().mean())
    assert terms.adversarial is None
    assert terms.alignment is None


def test_extreme_logits_stay_finite_in_half_precision() -> None:
    output = DiscriminatorOutput(torch.tensor([500.0, -500.0]).half(), torch.ones(2, 1, 1, 1).half())
    images = torch.rand(2, 3, 4, 4).half()
    assert GeneratorLoss()(images, images, output, output).total.isfinite()
    assert DiscriminatorLoss()(output.logits, output.logits).isfinite()


@pytest.mark.parametrize("lambdas", [(-1.0, 0.5, 0.5), (50.0, -1.0, 0.5), (50.0, 0.5, -1.0)])
def test_negative_weights_are_named(lambdas) -> None:
    with pytest.raises(ValueError, match=r"lambdas \(rec, adv, ali\) must not be negative") as error:
        GeneratorLoss(*lambdas)
    assert str(lambdas) in str(error.value)

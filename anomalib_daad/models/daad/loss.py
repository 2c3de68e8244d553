# SPDX-License-Identifier: Apache-2.0

"""Losses of DAAD (section 3.2, eq. 3 to 6).

The adversarial loss (eq. 5) is a game of two, so it appears twice: the discriminator minimises its negative, the
generator works against it. Both are binary cross entropies on logits, which stay finite in half precision.

Example:
    >>> import torch
    >>> images, reconstructions = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    >>> GeneratorLoss()(images, reconstructions).total  # 50 times the root of 3 * 8 * 8
    tensor(692.8203)
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from anomalib_daad.components.distance import sample_distance

from .discriminator import DiscriminatorOutput


def _bce(logits: torch.Tensor, label: float) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


class GeneratorTerms(NamedTuple):
    """The generator's loss and its terms before weighting.

    Attributes:
        total (torch.Tensor): The weighted sum, a scalar.
        reconstruction (torch.Tensor): Reconstruction error of each image, shape ``(B,)``.
        adversarial (torch.Tensor | None): Adversarial loss, a scalar; None without a discriminator.
        alignment (torch.Tensor | None): Feature distance of each image, shape ``(B,)``; None without a discriminator.
    """

    total: torch.Tensor
    reconstruction: torch.Tensor
    adversarial: torch.Tensor | None
    alignment: torch.Tensor | None


class GeneratorLoss(nn.Module):
    """Weighted sum of the reconstruction, adversarial and alignment losses (eq. 3).

    The generator's side of eq. 5 is the non-saturating one, -log D(G(x)), which Goodfellow et al. use in practice.

    Args:
        lambda_rec (float): Weight of L_rec (eq. 4). Defaults to ``50.0``.
        lambda_adv (float): Weight of L_adv (eq. 5). Defaults to ``0.5``.
        lambda_ali (float): Weight of L_ali (eq. 6). Defaults to ``0.5``.

    Raises:
        ValueError: If a weight is negative.
    """

    def __init__(self, lambda_rec: float = 50.0, lambda_adv: float = 0.5, lambda_ali: float = 0.5) -> None:
        super().__init__()
        if not all(weight >= 0 for weight in (lambda_rec, lambda_adv, lambda_ali)):
            msg = f"The lambdas (rec, adv, ali) must not be negative, got {(lambda_rec, lambda_adv, lambda_ali)}."
            raise ValueError(msg)
        self.lambda_rec = lambda_rec
        self.lambda_adv = lambda_adv
        self.lambda_ali = lambda_ali

    def forward(
        self,
        images: torch.Tensor,
        reconstructions: torch.Tensor,
        real: DiscriminatorOutput | None = None,
        fake: DiscriminatorOutput | None = None,
    ) -> GeneratorTerms:
        """Compute the generator's loss.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.
            real (DiscriminatorOutput | None): Discriminator's output for the images; no gradient flows through it.
                None leaves L_adv and L_ali out (DAAD).
            fake (DiscriminatorOutput | None): Discriminator's output for the reconstructions.

        Returns:
            GeneratorTerms: The total and its terms.
        """
        reconstruction = sample_distance(images, reconstructions)
        total = self.lambda_rec * reconstruction.mean()
        if real is None or fake is None:
            return GeneratorTerms(total, reconstruction, None, None)
        adversarial = _bce(fake.logits, 1.0)
        alignment = sample_distance(real.features.detach(), fake.features)
        total = total + self.lambda_adv * adversarial + self.lambda_ali * alignment.mean()
        return GeneratorTerms(total, reconstruction, adversarial, alignment)


class DiscriminatorLoss(nn.Module):
    """Negative of the adversarial loss (eq. 5), which the discriminator maximises."""

    def forward(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Compute -E[log D(x)] - E[log(1 - D(G(x)))].

        Args:
            real_logits (torch.Tensor): Logits of the images, shape ``(B,)``.
            fake_logits (torch.Tensor): Logits of the reconstructions, shape ``(B,)``.

        Returns:
            torch.Tensor: Scalar loss.
        """
        return _bce(real_logits, 1.0) + _bce(fake_logits, 0.0)

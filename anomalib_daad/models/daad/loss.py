# SPDX-License-Identifier: Apache-2.0

"""Losses of DAAD (section 3.2, eq. 3 to 6).

The adversarial loss (eq. 5) is a game of two, so it appears twice: the discriminator minimises its negative, the
generator works against it. Both are binary cross entropies on logits, which stay finite in half precision.

Example:
    >>> import torch
    >>> images, reconstructions = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    >>> sample_distance(images, reconstructions).shape
    torch.Size([2])
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .discriminator import DiscriminatorOutput

Distance = Literal["mse", "l2"]
GeneratorObjective = Literal["non_saturating", "saturating"]


def sample_distance(first: torch.Tensor, second: torch.Tensor, distance: Distance = "l2") -> torch.Tensor:
    """Distance of the samples of two batches: the ``|| . ||_2`` of eq. 4 and 6.

    Args:
        first (torch.Tensor): Batch of any shape ``(B, ..., D)``.
        second (torch.Tensor): Batch of the same shape.
        distance (str): ``"l2"``, the Euclidean norm of the differences, as eq. 4 and 6 have it, or ``"mse"``, the
            mean of their squares. They rank samples alike but weigh the losses differently: with ``"mse"`` the
            reconstruction loss is much the smallest of the three. Defaults to ``"l2"``.

    Returns:
        torch.Tensor: Distance of each sample, shape ``(B,)``, at least 0, in at least float32.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    difference = first.to(dtype) - second.to(dtype)
    if distance == "l2":
        # Row by row first: runtimes that add up naively lose digits over a whole image.
        rows = torch.linalg.vector_norm(difference, dim=-1).reshape(difference.shape[0], -1)
        return torch.linalg.vector_norm(rows, dim=1)
    return difference.flatten(1).square().mean(dim=1)


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

    Args:
        lambda_rec (float): Weight of L_rec (eq. 4). Defaults to ``50.0``.
        lambda_adv (float): Weight of L_adv (eq. 5). Defaults to ``0.5``.
        lambda_ali (float): Weight of L_ali (eq. 6). Defaults to ``0.5``.
        distance (str): Distance in L_rec and L_ali, see :func:`sample_distance`. Defaults to ``"l2"``.
        objective (str): The generator's side of eq. 5: ``"non_saturating"`` minimises -log D(G(x)), which Goodfellow
            et al. use in practice; ``"saturating"`` minimises log(1 - D(G(x))), eq. 5 to the letter.
            Defaults to ``"non_saturating"``.

    Raises:
        ValueError: If a weight is negative, or a choice is unknown.
    """

    def __init__(
        self,
        lambda_rec: float = 50.0,
        lambda_adv: float = 0.5,
        lambda_ali: float = 0.5,
        distance: Distance = "l2",
        objective: GeneratorObjective = "non_saturating",
    ) -> None:
        super().__init__()
        if min(lambda_rec, lambda_adv, lambda_ali) < 0:
            msg = f"The loss weights must not be negative, got lambda_rec={lambda_rec}, lambda_adv={lambda_adv}, "
            msg += f"lambda_ali={lambda_ali}."
            raise ValueError(msg)
        if distance not in get_args(Distance) or objective not in get_args(GeneratorObjective):
            msg = f"distance must be one of {get_args(Distance)} and the generator's objective one of "
            msg += f"{get_args(GeneratorObjective)}, got {distance!r} and {objective!r}."
            raise ValueError(msg)
        self.lambda_rec = lambda_rec
        self.lambda_adv = lambda_adv
        self.lambda_ali = lambda_ali
        self.distance: Distance = distance
        self.objective: GeneratorObjective = objective

    def forward(
        self,
        images: torch.Tensor,
        reconstructions: torch.Tensor,
        real: DiscriminatorOutput | None = None,
        fake: DiscriminatorOutput | None = None,
        contrast: torch.Tensor | None = None,
    ) -> GeneratorTerms:
        """Compute the generator's loss.

        Args:
            images (torch.Tensor): Images, shape ``(B, 3, H, W)``.
            reconstructions (torch.Tensor): Their reconstructions, same shape.
            real (DiscriminatorOutput | None): Discriminator's output for the images; no gradient flows through it.
                None leaves L_adv and L_ali out (DAAD).
            fake (DiscriminatorOutput | None): Discriminator's output for the reconstructions.
            contrast (torch.Tensor | None): What L_rec divides the images and reconstructions by, shape
                ``(B, 1, 1, 1)``, so that images of little contrast weigh as much as others; None for nothing.

        Returns:
            GeneratorTerms: The total and its terms.
        """
        reconstruction = sample_distance(images, reconstructions, self.distance)
        weighed = reconstruction
        if contrast is not None:
            weighed = sample_distance(images / contrast, reconstructions / contrast, self.distance)
        total = self.lambda_rec * weighed.mean()
        if real is None or fake is None:
            return GeneratorTerms(total, reconstruction, None, None)
        adversarial = _bce(fake.logits, 1.0) if self.objective == "non_saturating" else -_bce(fake.logits, 0.0)
        alignment = sample_distance(real.features.detach(), fake.features, self.distance)
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

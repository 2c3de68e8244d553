# SPDX-License-Identifier: Apache-2.0

"""Trainings that go wrong: losses that are no numbers stop them before a step; the rest is said.

A lost game, a network that rebuilds nothing, a memory that answers nothing.

Example:
    >>> import torch
    >>> refuse_diverged([torch.tensor(1.0)], [torch.ones(3)], step=7)
"""

import logging
from collections.abc import Sequence

import torch
from torch.nn.utils import get_total_norm

from anomalib_daad.components.block_memory import MemoryRead

logger = logging.getLogger(__name__)

WINDOW = 200  # steps that the discriminator's loss is averaged over
WON = 0.01  # its loss where it tells images and reconstructions apart without doubt; 2 log 2 where it cannot
UNANSWERED = 0.5  # share of blocks for which a memory has no item
LOST = 10.0  # its loss where it is wrong without doubt
TRIAL_STEPS = 25  # fewer only try whether everything runs: nobody expects scores of them


def refuse_diverged(losses: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], step: int) -> None:
    """Refuse to go on with losses or gradients that are NaN or infinite.

    Args:
        losses (Sequence[torch.Tensor]): Scalars.
        gradients (Sequence[torch.Tensor]): Gradients that are about to be applied; none where a scaler of
            half precision sees to them.
        step (int): Number of the step.

    Raises:
        ValueError: If one of them is not finite.
    """
    numbers = [*losses, get_total_norm(gradients)] if gradients else list(losses)
    if torch.stack([number.detach().float() for number in numbers]).isfinite().all():
        return
    shown = ", ".join(f"{loss.item():.4g}" for loss in losses)
    msg = (
        f"Training diverged in step {step}: losses {shown}, or their gradients, are not finite. The weights were not "
        f"changed by it and the last checkpoint is kept; go on from there with a smaller learning_rate, or with "
        f"--trainer.precision 32-true."
    )
    raise ValueError(msg)


class GameWatch:
    """Says once when the game between autoencoder and discriminator is over."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.has_spoken = False

    def see(self, loss: torch.Tensor) -> None:
        """Look at one step.

        Args:
            loss (torch.Tensor): Discriminator's loss, a scalar.
        """
        self.losses.append(loss.detach())
        if len(self.losses) < WINDOW:
            return
        mean = torch.stack(self.losses).mean().item()
        self.losses.clear()
        if self.has_spoken or WON <= mean <= LOST:
            return
        self.has_spoken = True
        what = "tells images and reconstructions apart without doubt" if mean < WON else "is wrong without doubt"
        logger.warning(
            "The discriminator %s: its loss was %.2g over %d steps. Its gradients no longer teach the autoencoder; "
            "training goes on, for the reconstruction loss does not depend on it. If L(x) turns out useless, lower "
            "learning_rate, or train with adversarial=False.",
            what,
            mean,
            WINDOW,
        )


def warn_if_astray(images: torch.Tensor, reconstructions: torch.Tensor) -> None:
    """Say where a trained network rebuilds good images worse than flat images of their mean would.

    Args:
        images (torch.Tensor): Good images that the network was trained on, shape ``(B, C, H, W)``.
        reconstructions (torch.Tensor): Their reconstructions, same shape.
    """
    images, reconstructions = images.float(), reconstructions.float()
    error = (images - reconstructions).square().mean().sqrt()
    flat = (images - images.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt()
    if error <= flat:
        return
    logger.warning(
        "The network rebuilds good images worse than flat images of their mean colour would: its root mean square "
        "error on the last training images is %.2g, theirs %.2g. Its scores mean little. Train it longer; if it was "
        "trained long enough, it went astray: train with a smaller learning_rate, or with --trainer.precision 32-true.",
        error.item(),
        flat.item(),
    )


def warn_if_unanswered(reads: Sequence[MemoryRead]) -> None:
    """Say where a memory keeps no item for the blocks of good images.

    Args:
        reads (Sequence[MemoryRead]): What each memory did, fine to coarse.
    """
    for number, read in enumerate(reads, start=1):
        share = (read.weights.sum(dim=-1) == 0).float().mean().item()
        if share >= UNANSWERED:
            logger.warning(
                "Memory %d of %d keeps no item for %.0f%% of the blocks of good images, which it reads as zeros; they "
                "teach it nothing. Train with a smaller shrinkage, 1 to 3.",
                number,
                len(reads),
                100 * share,
            )

# SPDX-License-Identifier: Apache-2.0

"""A trained model goes on training on good images of a new kind, and keeps what it knows of the old kind.

A thirtieth of a training at a tenth of its learning rate; maps are then standardised by the statistics of both kinds.
Without old images, those that the model carries stand for the old kind, and a smaller learning rate keeps what its
networks know of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from anomalib_daad.components.fused_score import Scores
from anomalib_daad.training.divergence import refuse_diverged

from .lightning_model import DaadRestoration
from .map_standardization import Statistics
from .schedule import annealed
from .torch_model import RestorationModel

STEPS = DaadRestoration.default_steps // 30  # three times as many gained nothing
RATE = 0.1  # of the learning rate of training
RATE_ALONE = 0.01  # the same without old images: at 0.1 all old good bottles were rejected
LEAST = 0.5  # of the deviation of old scores that is left: less is not believed
BATCH = 8  # images, half of them old ones where there are some

Read = Callable[[Any], torch.Tensor]


def draw_batches(new: Sequence[Any], old: Sequence[Any], read: Read, steps: Iterable[int]) -> Iterable[torch.Tensor]:
    """Draw images to train on, by the global random numbers.

    Args:
        new (Sequence[Any]): Images of the new kind, at least one.
        old (Sequence[Any]): Images of the old kind, may be none.
        read (Read): Reads one, in [-1, 1], shape ``(1, 3, H, W)``.
        steps (Iterable[int]): An item for each batch.

    Yields:
        torch.Tensor: Batch, half of it new where there are old images, shape ``(B, 3, H, W)``.
    """
    kinds = [kind for kind in (new, old) if kind]
    for _ in steps:
        chosen = [kind[index] for kind in kinds for index in torch.randperm(len(kind))[: BATCH // len(kinds)].tolist()]
        yield torch.cat([read(image) for image in chosen])


def train_further(model: DaadRestoration, batches: Iterable[torch.Tensor], rate: float) -> None:
    """Train both networks on.

    Args:
        model (DaadRestoration): Trained model; afterwards in evaluation mode.
        batches (Iterable[torch.Tensor]): ``STEPS`` batches of good images in [-1, 1], shape ``(B, 3, H, W)``.
        rate (float): Largest learning rate, as a share of that of training.

    Raises:
        ValueError: If a loss or a gradient is not finite.
    """
    network = model.model
    optimizer = model.make_optimizer(rate * model.learning_rate)
    schedule = LambdaLR(optimizer, lambda step: annealed(step, STEPS))
    network.train()
    try:
        for number, images in enumerate(batches):
            losses = model.losses(network.cover(images)).losses
            optimizer.zero_grad()
            losses[0].backward()
            refuse_diverged(losses, [weight.grad for weight in optimizer.param_groups[0]["params"]], number)
            optimizer.step()
            schedule.step()
    finally:
        network.eval()


@torch.no_grad()
def standardize_by_both(network: RestorationModel, maps: torch.Tensor, known: Statistics) -> None:
    """Standardise maps by the statistics of both kinds, as if half of all images were new.

    Args:
        network (RestorationModel): Network in evaluation mode.
        maps (torch.Tensor): Maps that it observes of good images of the new kind, two at least.
        known (Statistics): Statistics of the old kind.
    """
    network.learn_usual(maps)
    standardization: Any = network.standardization
    standardization.mix_in(known)


@torch.no_grad()
def as_if_old(network: RestorationModel, maps: torch.Tensor, known: Statistics) -> torch.Tensor:
    """Make maps of new images look like those of old ones: each place gets the mean and the deviation of the old kind.

    Args:
        network (RestorationModel): Network in evaluation mode, whose statistics are changed.
        maps (torch.Tensor): Maps that it observes of good images of the new kind, two at least.
        known (Statistics): Statistics of the old kind.

    Returns:
        torch.Tensor: Maps, same shape.
    """
    network.learn_usual(maps)
    standardization: Any = network.standardization
    standardized = standardization(network.tiling.take_apart(maps))
    standardization.remember(known)
    usual = standardization.usual()
    return network.tiling.lay_out(usual.mean + usual.deviation * standardized)


def carry_ranges(network: RestorationModel, before: Scores, after: Scores) -> None:
    """Move the ranges of the scores, so that old images score as before: a threshold then means what it meant.

    Scores become smaller where statistics allow for more. The ranges follow the mean and the deviation of the scores.

    Args:
        network (RestorationModel): Network.
        before (Scores): Parts of the scores of old images, by what the network knew, shape ``(n,)``.
        after (Scores): The same, of the same images, by what it knows.
    """
    ranges = (network.score.reconstruction_range, network.score.alignment_range)
    for score_range, was, now in zip(ranges, before, after, strict=True):
        if was is not None and now is not None and was.std() > 0 and now.std() > 0:
            score_range.sub_(was.mean()).mul_((now.std() / was.std()).clamp_min(LEAST)).add_(now.mean())

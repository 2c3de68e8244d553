# SPDX-License-Identifier: Apache-2.0

"""Every private part of Lightning that training needs, each with its reason: what may break with its next version."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

MOST_STEPS_WITHOUT_VALIDATION = 1500  # a checkpoint follows each: so many can be lost

if TYPE_CHECKING:
    Module = AnomalibModule
else:
    Module = object  # mixins stand in front of AnomalibModule: anomalib lists only its direct subclasses as models


def plain_tensor(images: Any) -> torch.Tensor:
    """Take torchvision's type off images: networks compiled by PyTorch 2.14 do not take it.

    Args:
        images (Any): Images, a tensor of any class.

    Returns:
        torch.Tensor: The same images.
    """
    return images.as_subclass(torch.Tensor)


def count_steps_of_the_first(optimizers: Sequence[Any]) -> None:
    """Let Lightning count the first optimizer's steps alone: it counts all, so that max_steps would come too early.

    Args:
        optimizers (Sequence[Any]): Lightning's optimizers.
    """
    for optimizer in optimizers[1:]:
        optimizer._on_before_step = do_nothing_closure  # noqa: SLF001
        optimizer._on_after_step = do_nothing_closure  # noqa: SLF001


def loaders_of(loop: Any) -> Any:
    """Loaders that a loop reads, a list in an attribute ``flattened`` that can be set.

    Args:
        loop (Any): Lightning's fit or evaluation loop.

    Returns:
        Any: Lightning's combined loader; None where there is none.
    """
    return loop._combined_loader  # noqa: SLF001


def restart_training_data(trainer: Trainer) -> None:
    """Shuffle the training data anew: the loop holds an iterator of the loader, or of the random state, before.

    Args:
        trainer (Trainer): Trainer in a training.
    """
    iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # noqa: SLF001


def shuffled_before_the_epoch(trainer: Trainer) -> bool:
    """Tell whether Lightning has shuffled the data of this epoch before its hooks ran: in the first of a run alone.

    Args:
        trainer (Trainer): Trainer in a training.

    Returns:
        bool: True for the first epoch of a run.
    """
    loop: Any = trainer.fit_loop
    return trainer.current_epoch == 0 or loop.is_resuming or loop.epoch_loop.restarting


def find_time_limit(trainer: Trainer) -> Timer | None:
    """Find what ends a training when its time is over: ``max_time``, or a Timer with a duration.

    Args:
        trainer (Trainer): Trainer.

    Returns:
        Timer | None: The timer; None where the time is not limited.
    """
    timers = [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, Timer)]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def set_default_length(trainer: Trainer, steps: int) -> None:
    """Set how long a training is where the user said nothing: no max_steps, no max_epochs, no max_time.

    Lightning turns nothing into 1000 epochs, but only after the trainer has met the model. Where nothing was said of
    validation either, a training in steps validates at its end and at least every 1500 steps, half-way at the latest:
    validations of every epoch of a few steps would take longer than they.

    Args:
        trainer (Trainer): Trainer that meets a model.
        steps (int): Steps of the whole training.
    """
    is_endless = trainer.max_epochs == -1 and trainer.max_steps == -1
    if trainer.state.fn != TrainerFn.FITTING or is_endless or find_time_limit(trainer) is not None:
        return
    if trainer.max_epochs not in {None, -1} or trainer.min_epochs is not None:
        return
    if trainer.max_steps == -1:
        trainer.fit_loop.epoch_loop.max_steps = max(steps, trainer.min_steps or 0)
    said = (getattr(trainer, "val_check_interval", None), trainer.check_val_every_n_epoch) != (1.0, 1)
    stops_early = any(isinstance(callback, EarlyStopping) for callback in getattr(trainer, "callbacks", []))
    if not said and not stops_early:
        trainer.val_check_interval = validation_interval(trainer.max_steps)
        trainer.check_val_every_n_epoch = None


def validation_interval(steps: int) -> int:
    """Steps between two validations, so that one follows the last step where the number of steps allows it.

    Args:
        steps (int): Steps of the whole training.

    Returns:
        int: Half of the steps, or all of an odd number; of long trainings at most 1500.
    """
    if steps <= MOST_STEPS_WITHOUT_VALIDATION:
        return max(1, steps if steps % 2 else steps // 2)
    fewest = -(-steps // MOST_STEPS_WITHOUT_VALIDATION)
    return steps // next((count for count in range(fewest, 4 * fewest) if steps % count == 0), fewest)


def save_without_validation(trainer: Trainer) -> None:
    """Let checkpoints follow epochs where nothing is validated: counted in steps, they would wait for a validation.

    Args:
        trainer (Trainer): Trainer at the start of a training.
    """
    if trainer.check_val_every_n_epoch is None and not sum(trainer.num_val_batches):
        trainer.val_check_interval, trainer.check_val_every_n_epoch = 1.0, 1


def fresh_validation_batches(trainer: Trainer) -> Iterator[Batch]:
    """Iterate over what validation is about to see, through loaders of their own.

    The validation loop already holds an iterator of its loaders; a second one on a loader with persistent workers
    would take over the first.

    Args:
        trainer (Trainer): Trainer at the start of a validation.

    Yields:
        Batch: Batches of the validation.
    """
    validating = trainer.state.fn == TrainerFn.VALIDATING
    loop = trainer.validate_loop if validating else trainer.fit_loop.epoch_loop.val_loop
    combined = loaders_of(loop)
    loaders = combined.flattened if combined is not None else []
    for loader, limit in zip(loaders, loop.max_batches, strict=True):
        fresh = loader
        if isinstance(loader, DataLoader):
            fresh = DataLoader(
                loader.dataset,
                batch_size=loader.batch_size or 1,
                sampler=loader.sampler,  # under DDP this process's share
                num_workers=loader.num_workers,
                collate_fn=loader.collate_fn,
            )
        yield from islice(fresh, None if limit == float("inf") else int(limit))

# SPDX-License-Identifier: Apache-2.0

"""Training of a network that reconstructs images: steps, optimizers, schedules and what is logged.

What a detector adds are its losses, its optimizers and, where scores depend on more, what it learns before calibration.
"""

from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_daad.components.block_memory import BlockMemory
from anomalib_daad.components.finite_input import refuse_not_finite, refuse_other_range
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.network import evaluating
from anomalib_daad.data.image_check import check_image_files

from .calibration import CalibratedScores
from .checkpoint_content import CheckedCheckpoints
from .checkpoint_file import write_whole_checkpoints
from .default_components import DefaultComponents
from .distributed import average
from .divergence import TRIAL_STEPS, GameWatch, refuse_diverged, warn_if_astray, warn_if_unanswered
from .exporting import RewrittenExports
from .harmless_warnings import leave_out_harmless_warnings
from .lightning_internals import count_steps_of_the_first, plain_tensor, save_without_validation, set_default_length
from .precision import avoid_emulated_bfloat16
from .randomness import random_flips, seed_epoch
from .run_checks import refuse_a_used_trainer, refuse_other_precisions, refuse_untrained, warn_if_half_range

_OF_A_TRAINING = ("_latest_images", "_first_images", "_training_scores", "_game")


class TrainingLosses(NamedTuple):
    """What a batch gives to train on.

    Attributes:
        losses (list[torch.Tensor]): Scalars, in the order of the optimizers; the second, where there is one, is that of
            the other side of a game.
        scores (Scores): Scores of the good images, for the ranges where no validation sets them.
        logged (dict[str, torch.Tensor]): Scalars for the log.
    """

    losses: list[torch.Tensor]
    scores: Scores
    logged: dict[str, torch.Tensor]


class ReconstructionTraining(DefaultComponents, CalibratedScores, CheckedCheckpoints, RewrittenExports):
    """Training of a model that reconstructs images and scores them by two parts, each scaled by its range.

    Args:
        image_size (tuple[int, int]): Height and width that the default pre-processor resizes images to.
        pre_processor (PreProcessor | bool): ``True`` for the default one.
        post_processor (PostProcessor | bool): ``True`` for :class:`FalseAlarmPostProcessor`.
        evaluator (Evaluator | bool): ``True`` for the default one.
        visualizer (Visualizer | bool): ``True`` for :class:`JudgementVisualizer`.

    Attributes:
        model (Any): The network, an :class:`AnomalyNetwork`.
        seed (int | None): Seeds every epoch.
        flips (bool): Flip each training image at random.
        default_steps (int | None): Steps of a training of which the user did not say how long it is; None leaves that
            to Lightning, whose answer is 1000 epochs.
        moved_arguments (dict[str, str]): Where arguments are that users may look for here.
    """

    seed: int | None
    flips = False
    default_steps: int | None = None
    of_training_alone: ClassVar[frozenset[str]] = frozenset(
        {"learning_rate", "flips", "seed", "lambdas", "entropy", "uniform_use"}
    )
    moved_arguments: ClassVar[dict[str, str]] = {}
    automatic_optimization = False
    _game: GameWatch | None = None
    _latest_images: torch.Tensor | None = None
    _first_images: list[torch.Tensor] | None = None  # of the first epoch, where a detector learns from them

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Say where an argument is that users may look for here."""
        del args
        for name in [name for name in cls.moved_arguments if name in kwargs][:1]:
            msg = f"{cls.__name__} takes no {name}: {cls.moved_arguments[name]}."
            raise ValueError(msg)
        return super().__new__(cls)

    def __init__(
        self,
        image_size: tuple[int, int],
        pre_processor: PreProcessor | bool,
        post_processor: PostProcessor | bool,
        evaluator: Evaluator | bool,
        visualizer: Visualizer | bool,
    ) -> None:
        own = self.configure_pre_processor(image_size) if pre_processor is True else pre_processor
        super().__init__(pre_processor=own, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer)

    @property
    def trainer(self) -> Any:
        """Trainer that the model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # The last moment at which a trainer still knows that the user said nothing of the length.
        if trainer is not None and self.default_steps is not None:
            set_default_length(trainer, self.default_steps)
        super(ReconstructionTraining, type(self)).trainer.fset(self, trainer)

    def forward(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Judge images, as anomalib's models do.

        Args:
            batch (Any): Images in [0, 1], shape ``(B, 3, H, W)``.
            args: As anomalib's.
            kwargs: As anomalib's.

        Returns:
            Any: Scores, labels, maps and masks.

        Raises:
            ValueError: If the model is in training mode, in which it would learn from the images.
        """
        if self.model.training:
            msg = f"This {type(self).__name__} is in training mode, in which it judges no images: call eval() first."
            raise ValueError(msg)
        return super().forward(batch, *args, **kwargs)

    def setup(self, stage: str) -> None:
        """Refuse image files that cannot be read, or leave them out of a prediction, before any loader opens one.

        Checkpoints are whole or not at all from here on. Training in bf16-mixed becomes training in float32 on
        processors that emulate bfloat16.

        Args:
            stage (str): ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

        Raises:
            ValueError: If files cannot be read, in a prediction if none can; or if weights are not to be float32.
        """
        leave_out_harmless_warnings()
        refuse_other_precisions(self.trainer, type(self).__name__)
        if stage == TrainerFn.FITTING:
            avoid_emulated_bfloat16(self.trainer)
        write_whole_checkpoints(self.trainer)
        check_image_files(self.trainer)

    def on_fit_start(self) -> None:
        """Train all of the network, also one that predicted before: Lightning leaves it in evaluation mode.

        Raises:
            ValueError: If the trainer has trained another model.
        """
        refuse_a_used_trainer(self.trainer, self)
        self.model.train()
        self._training_scores = []

    def on_test_start(self) -> None:
        """Refuse to test what was never trained."""
        refuse_untrained(self.model, type(self).__name__)

    def on_predict_start(self) -> None:
        """Refuse to predict by what was never trained."""
        refuse_untrained(self.model, type(self).__name__)

    def on_train_start(self) -> None:
        """Save checkpoints where nothing is validated, too."""
        save_without_validation(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that its data order and random numbers do not depend on where training started."""
        self._training_scores = []
        if self.seed is not None:
            seed_epoch(self.trainer, self.seed)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Train on one batch and advance the schedules, where there are any.

        The gradients of all losses are taken at the same weights, so that one pass of a discriminator over x and one
        over its reconstruction serve both losses of a game.

        Args:
            batch (Batch): Good images in ``batch.image``, shape ``(B, 3, H, W)``, in [-1, 1].
            batch_idx (int): Index of the batch.

        Returns:
            STEP_OUTPUT: The first loss.

        Raises:
            ValueError: If a pixel, a loss or a gradient is NaN or infinite, the images have another size than the
                network was built for, or the first ones have another range than [-1, 1].
        """
        del batch_idx
        self.model.check(batch.image)
        refuse_not_finite(batch)
        images = self.model.cover(plain_tensor(batch.image))
        if self._latest_images is None:
            refuse_other_range(images, type(self).__name__)
            warn_if_half_range(self.pre_processor, images, type(self).__name__)
        if self.flips:
            images = random_flips(images)
        self._latest_images = images
        losses, scores, logged = self.losses(images)
        self._optimize(losses)
        alignment = None if scores.alignment is None else scores.alignment.detach()
        self._training_scores = self._training_scores or []
        self._training_scores.append(Scores(scores.reconstruction.detach(), alignment))
        if len(losses) > 1:
            self._game = self._game or GameWatch()
            self._game.see(losses[1])
        self.log_dict(logged, prog_bar=True, batch_size=images.shape[0])
        schedules = self.lr_schedulers() or []
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            schedule.step()  # type: ignore[call-arg]
        return losses[0].detach()

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute what each optimizer minimises.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The losses, and what there is to calibrate with and to log.
        """
        raise NotImplementedError

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The images as the network sees them, and their reconstructions, of the
            same shape.
        """
        raise NotImplementedError

    def _optimize(self, losses: list[torch.Tensor]) -> None:
        """Step each network down its own loss, the generator's first, all gradients taken before the first step."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        strategy = self.trainer.strategy
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            parameters = optimizer.param_groups[0]["params"]
            with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
                self.manual_backward(loss, inputs=parameters, retain_graph=loss is not losses[-1])
            average([parameter.grad for parameter in parameters])
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        steppers = [] if has_scaler else optimizers
        gradients = [parameter.grad for optimizer in steppers for parameter in optimizer.param_groups[0]["params"]]
        refuse_diverged(losses, gradients, self.trainer.global_step)
        count_steps_of_the_first(optimizers)
        for optimizer in optimizers:
            optimizer.step()

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Say where the network has learnt nothing."""
        if self._latest_images is None:
            return
        with evaluating(self.model):
            if self.trainer.global_step >= TRIAL_STEPS:
                warn_if_astray(*self.rebuild(self._latest_images))
            # What drops no more than the weights below the mean always answers.
            if any(isinstance(memory, BlockMemory) and memory.drop_below > 1 for memory in self.model.modules()):
                warn_if_unanswered(self.model.explain(self._latest_images).reads)

    def teardown(self, stage: str) -> None:
        """Forget images and scores: nothing of the data leaves with a model.

        Args:
            stage (str): Not used.
        """
        del stage
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Leave images and scores out of copies and pickles, also in a training."""
        return {**super().__getstate__(), **dict.fromkeys(_OF_A_TRAINING)}

    def _forget(self) -> None:
        for name in _OF_A_TRAINING:
            setattr(self, name, None)

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score one batch.

        Args:
            batch (Batch): Images in ``batch.image``, shape ``(B, 3, H, W)``, in [-1, 1].
            args: Not used.
            kwargs: Not used.

        Returns:
            STEP_OUTPUT: The batch with scores and anomaly maps.
        """
        del args, kwargs
        return batch.update(**self.model(plain_tensor(batch.image))._asdict())

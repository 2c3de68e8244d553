# SPDX-License-Identifier: Apache-2.0

"""What all models of this package do alike in training: seeds, cached images, optimizers, calibration, checkpoints.

A mixin in front of anomalib's ``AnomalibModule``: anomalib lists only the direct subclasses of that as models.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_daad.components.finite_input import refuse_not_finite
from anomalib_daad.components.precision import avoid_emulated_bfloat16
from anomalib_daad.data.image_check import check_image_files
from anomalib_daad.models.daad.loss import GeneratorTerms
from anomalib_daad.models.daad.torch_model import Scores
from anomalib_daad.models.daad_restoration.placement import move

from .checkpoint_file import WholeCheckpointIO, write_whole_checkpoints
from .distributed import average, gather
from .divergence import GameWatch, refuse_diverged, warn_if_astray
from .image_cache import cache_images
from .pre_processor import AntialiasPreProcessor
from .quantization import quantize

if TYPE_CHECKING:
    import openvino

    _Base = AnomalibModule
else:
    _Base = object


class TrainingLosses(NamedTuple):
    """What a batch gives to train on.

    Attributes:
        terms (GeneratorTerms): Terms of the loss, for the log.
        losses (list[torch.Tensor]): Scalars, in the order of the optimizers.
        scores (Scores): Scores of the good images, for the ranges where no validation sets them.
    """

    terms: GeneratorTerms
    losses: list[torch.Tensor]
    scores: Scores


class ReconstructionTraining(_Base):
    """Training of a model that reconstructs images and scores them by two parts, each scaled by its range.

    Attributes:
        model (Any): The network: in training called by :meth:`losses`; ``scores(images)`` gives the two parts;
            ``score`` holds their ranges.
        flips (bool): Flip each training image at random.
        random_shift (int): Move each training image at random, by up to so many pixels.
        seed (int | None): Seeds every epoch.
        image_cache_gb (float): Training images are kept in memory if they take no more than this, in GB.
        calibrates_on_good (bool): Take the ranges from the good validation images alone.
    """

    model: Any
    flips: bool
    random_shift = 0
    seed: int | None
    image_cache_gb: float
    calibrates_on_good = False
    _validated = False
    _training_scores: list[Scores]
    _game: GameWatch
    _latest_images: torch.Tensor | None = None

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: resize, then scale [0, 1] to [-1, 1] (section 4.1).

        Args:
            image_size (tuple[int, int] | None): Height and width. Defaults to ``None``, 256x256.

        Returns:
            PreProcessor: Pre-processor that exports with the same antialiased resize.
        """
        size = tuple(image_size or (256, 256))
        return AntialiasPreProcessor(Compose([Resize(size, antialias=True), Normalize([0.5] * 3, [0.5] * 3)]))

    def setup(self, stage: str) -> None:
        """Refuse image files that cannot be read, or leave them out of a prediction, before any loader opens one.

        Checkpoints are whole or not at all from here on. Training in bf16-mixed becomes training in float32 on
        processors that emulate bfloat16, see :mod:`anomalib_daad.components.precision`.

        Args:
            stage (str): ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

        Raises:
            ValueError: If files cannot be read; in a prediction, if none can.
        """
        if stage == TrainerFn.FITTING:
            avoid_emulated_bfloat16(self.trainer)
        write_whole_checkpoints(self.trainer)
        check_image_files(self.trainer)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model from a checkpoint that is whole.

        Args:
            checkpoint_path (Any): Checkpoint.
            args: As anomalib's.
            kwargs: As anomalib's.

        Returns:
            Any: The model.

        Raises:
            ValueError: If the file is damaged, is no checkpoint, or is one of another model.
        """
        if isinstance(checkpoint_path, str | Path) and kwargs.get("weights_only", True):
            WholeCheckpointIO(cls.checkpoint_safe_globals()).load_checkpoint(checkpoint_path, map_location="cpu")
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_fit_start(self) -> None:
        """Train all of the network, also one that predicted before: Lightning leaves it in evaluation mode."""
        self.model.train()
        self._training_scores = []
        self._game = GameWatch()

    def on_train_start(self) -> None:
        """Keep the training images in memory where they fit."""
        fit_loop: Any = self.trainer.fit_loop
        self._cache_images(fit_loop)
        iter(fit_loop._data_fetcher)  # noqa: SLF001  # it holds an iterator of the loader before

    def _cache_images(self, loop: Any) -> None:
        loaders = loop._combined_loader  # noqa: SLF001
        loaders.flattened = cache_images(loaders.flattened, self.image_cache_gb * 1e9)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that its data order and flips do not depend on where training started."""
        self._training_scores.clear()
        if self.seed is not None:
            epoch_seed = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank]).generate_state(1)[0]
            seed_everything(int(epoch_seed), verbose=False)
            fit_loop: Any = self.trainer.fit_loop
            if self.current_epoch == 0 or fit_loop.is_resuming or fit_loop.epoch_loop.restarting:
                # Only for the first epoch of a run has Lightning shuffled the data already, before this hook.
                iter(fit_loop._data_fetcher)  # noqa: SLF001

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Train on one batch.

        The gradients of all losses are taken at the same weights, so that one pass of a discriminator over x and one
        over its reconstruction serve both losses of a game.

        Args:
            batch (Batch): Good images in ``batch.image``, shape ``(B, 3, H, W)``, in [-1, 1].
            batch_idx (int): Index of the batch.

        Returns:
            STEP_OUTPUT: The first loss.

        Raises:
            ValueError: If a pixel, a loss or a gradient is NaN or infinite.
        """
        del batch_idx
        refuse_not_finite(batch)
        images = plain_tensor(batch.image)
        if self.flips:
            images = random_flips(images)
        self._latest_images = images
        if self.random_shift:
            images = random_shifts(images, self.random_shift)
        terms, losses, scores = self.losses(images)
        self._optimize(losses)

        alignment = None if scores.alignment is None else scores.alignment.detach()
        self._training_scores.append(Scores(scores.reconstruction.detach(), alignment))
        logged = {"train_rec": terms.reconstruction.mean()}
        if terms.adversarial is not None and terms.alignment is not None:
            self._game.see(losses[1])
            logged |= {"train_adv": terms.adversarial, "train_ali": terms.alignment.mean(), "train_dis": losses[1]}
        self.log_dict(logged, prog_bar=True, batch_size=images.shape[0])
        return losses[0].detach()

    def losses(self, images: torch.Tensor) -> "TrainingLosses":
        """Compute what each optimizer minimises.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The losses, and what there is to log and to calibrate with.
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

    def inference_model(self) -> nn.Module:
        """Network that is exported.

        Returns:
            nn.Module: The network itself, unless a subclass knows a faster one.
        """
        return self.model

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
        for optimizer in optimizers[1:]:
            # Lightning counts every optimizer's step, so that max_steps would end training twice as early.
            optimizer._on_before_step = do_nothing_closure  # noqa: SLF001
            optimizer._on_after_step = do_nothing_closure  # noqa: SLF001
        for optimizer in optimizers:
            optimizer.step()

    def on_train_epoch_end(self) -> None:
        """Scale the scores by the epoch's training images where no validation has set their ranges."""
        self._average_statistics()
        if self._training_scores and not (self.trainer.enable_validation and self._validated):
            self._calibrate(self._training_scores)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Say where the network has learnt nothing."""
        if self._latest_images is None:
            return
        with evaluating(self.model):
            warn_if_astray(*self.rebuild(self._latest_images))

    def on_validation_start(self) -> None:
        """Scale the scores by the validation images, before anomalib's post-processor sees the first of them."""
        self._average_statistics()
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._cache_images(self.trainer.fit_loop.epoch_loop.val_loop)  # from the next validation on
        self._calibrate([self._validation_scores(batch) for batch in _fresh_validation_batches(self.trainer)])
        self._validated = True

    def _average_statistics(self) -> None:
        """Let every process hold the statistics of all, so that they score alike and any of them can be saved."""
        average(
            [
                buffer
                for name, buffer in self.model.named_buffers()
                if name.endswith((".running_mean", ".running_var", ".count", "memory.items"))
            ]
        )

    def _validation_scores(self, batch: Batch) -> Scores:
        batch = self.trainer.strategy.batch_to_device(batch)
        if isinstance(self.pre_processor, Callback):
            self.pre_processor.on_validation_batch_start(self.trainer, self, batch, 0)
        refuse_not_finite(batch)
        images = plain_tensor(batch.image)
        if self.calibrates_on_good and batch.gt_label is not None:
            images = images[batch.gt_label == 0]
        with self.trainer.precision_plugin.val_step_context():
            return self.model.scores(images)

    def _calibrate(self, scores: list[Scores]) -> None:
        alignment = [part.alignment for part in scores if part.alignment is not None]
        self.model.score.calibrate(
            gather(torch.cat([part.reconstruction for part in scores])),
            gather(torch.cat(alignment)) if alignment else None,
        )

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save also whether validation has set the ranges.

        Args:
            checkpoint (dict[str, Any]): Checkpoint to add to.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint["daad_validated"] = self._validated

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, in one sentence, before PyTorch lists every key.

        Args:
            checkpoint (dict[str, Any]): Checkpoint to load from.

        Raises:
            ValueError: If the checkpoint is of another model or architecture.
        """
        self._check_architecture(checkpoint)
        super().on_load_checkpoint(checkpoint)
        self._validated = checkpoint.get("daad_validated", True)

    def _check_architecture(self, checkpoint: dict[str, Any]) -> None:
        def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
            return {key: value.shape for key, value in state.items() if key.startswith("model.")}

        if shapes(checkpoint["state_dict"]) == shapes(self.state_dict()):
            return
        saved = checkpoint.get("hyper_parameters", {})
        differing = [key for key in self.hparams if key in saved and saved[key] != self.hparams[key]]
        reason = ", ".join(f"{key}={saved[key]} in the checkpoint, {self.hparams[key]} here" for key in differing)
        msg = f"The checkpoint does not fit this Daad model: {reason or 'it was saved by another kind of model'}. "
        msg += "Build the model with the arguments that it was trained with, or load another checkpoint."
        raise ValueError(msg)

    @contextmanager
    def _rewritten_for_inference(self) -> Iterator[None]:
        trained = self.model
        self.model = self.inference_model()
        try:
            yield
        finally:
            self.model = trained

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export for :class:`anomalib.deploy.TorchInferencer`.

        Args:
            args: As anomalib's ``to_torch``.
            kwargs: As anomalib's ``to_torch``.

        Returns:
            Path: Path to the exported model.
        """
        with self._rewritten_for_inference():
            return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args: Any, opset_version: int = 18, **kwargs: Any) -> Path:  # type: ignore[override]
        """Export to ONNX.

        Args:
            args: As anomalib's ``to_onnx``.
            opset_version (int): Operator set. Defaults to ``18``: PyTorch's exporter writes it, and prints a
                traceback when it then fails to convert to anomalib's default of 14.
            kwargs: As anomalib's ``to_onnx``.

        Returns:
            Path: Path to the exported model.
        """
        self.eval()
        with self._rewritten_for_inference():
            return super().to_onnx(*args, opset_version=opset_version, **kwargs)

    def _post_training_quantization_ov(  # type: ignore[override]  # needs the number of scales
        self, model: "openvino.Model", datamodule: AnomalibDataModule | None = None
    ) -> "openvino.Model":
        """Quantise all but the encoder and the memories."""
        if datamodule is None:
            msg = "INT8_PTQ needs images to calibrate on: give a datamodule, on the command line with --data."
            raise ValueError(msg)
        datamodule.setup("fit")
        import nncf

        images = nncf.Dataset(datamodule.val_dataloader(), lambda batch: batch.image)
        return quantize(model, images, self.model.num_scales)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that must hold: two optimizers rule out automatic clipping, calibration sanity checks."""
        return {"gradient_clip_val": 0, "num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Daad learns from good images alone."""
        return LearningType.ONE_CLASS


def plain_tensor(images: Any) -> torch.Tensor:
    """Take torchvision's type off images: networks compiled by PyTorch 2.14 do not take it.

    Args:
        images (Any): Images, a tensor of any class.

    Returns:
        torch.Tensor: The same images.
    """
    return images.as_subclass(torch.Tensor)


def random_flips(images: torch.Tensor) -> torch.Tensor:
    """Flip each image horizontally and vertically with a probability of one half each (section 4.1).

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.

    Returns:
        torch.Tensor: Flipped images, same shape.
    """
    for dim in (-1, -2):
        coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(coins, images.flip(dim), images)
    return images


def random_shifts(images: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image at random, by whole pixels, all movements alike likely.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        most (int): Most pixels that an image is moved in rows and in columns.

    Returns:
        torch.Tensor: Moved images, same shape, with their borders repeated.
    """
    rows, columns = torch.randint(-most, most + 1, (2, len(images)), device=images.device)
    return move(images, rows, columns)


def _fresh_validation_batches(trainer: Trainer) -> Iterator[Batch]:
    """Iterate over what validation is about to see, through loaders of their own.

    The validation loop already holds an iterator of its loaders; a second one on a loader with persistent workers
    would take over the first.
    """
    validating = trainer.state.fn == TrainerFn.VALIDATING
    loop = trainer.validate_loop if validating else trainer.fit_loop.epoch_loop.val_loop
    combined = loop._combined_loader  # noqa: SLF001
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


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Make random numbers repeatable and leave the global random state alone.

    Args:
        seed (int | None): Seed; None does nothing.
    """
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and back in the mode that it was in.

    Args:
        network (nn.Module): Network.
    """
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)

# SPDX-License-Identifier: Apache-2.0

"""DAAD and DAAD+ as an anomalib model: training, calibration and checkpoints.

Learns from good images alone, without pretrained weights: an autoencoder whose encoder-decoder connections all pass
through block-wise memories, a discriminator, and an anomaly score fused of the reconstruction error R(x) and the
distance L(x) of the discriminator's features.

Paper:
    Title: Divide-and-Assemble: Learning Block-wise Memory for Unsupervised Anomaly Detection
    URL: https://arxiv.org/abs/2107.13118

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anomalib_daad import Daad

    >>> datamodule = MVTecAD(category="bottle", train_batch_size=8)
    >>> model = Daad()
    >>> engine = Engine(max_epochs=1000)
    >>> engine.train(model, datamodule=datamodule)  # doctest: +SKIP

See Also:
    :class:`anomalib_daad.models.daad.torch_model.DaadModel`: the network and the score.
    :class:`anomalib_daad.models.daad.loss.GeneratorLoss`: the weighted loss.
"""

import math
from functools import partial
from typing import Any, Literal, get_args

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR

from anomalib_daad.components.autoencoder import Connections
from anomalib_daad.components.block_memory import MemoryInit
from anomalib_daad.components.error_map import maximum
from anomalib_daad.components.inference import for_inference
from anomalib_daad.components.memory_loss import MemoryLoss
from anomalib_daad.components.precision import full_precision
from anomalib_daad.models.daad_restoration.corruption import corrupt, relight
from anomalib_daad.models.daad_restoration.muon import Muon
from anomalib_daad.training.distributed import gather
from anomalib_daad.training.reconstruction_training import ReconstructionTraining, TrainingLosses, evaluating, seeded

from .loss import DiscriminatorLoss, Distance, GeneratorLoss, GeneratorObjective, GeneratorTerms
from .torch_model import DaadModel, ScoreKind, Scores, TrainingOutput

OptimizerName = Literal["adam", "muon"]
WARM_UP = 0.1  # share of a restoration training
LIGHT = (0.1, 0.2)  # of good images: contrast and brightness that restoration training varies


class Daad(ReconstructionTraining, AnomalibModule):
    """Divide-and-Assemble Anomaly Detection.

    Args:
        image_size (tuple[int, int]): Height and width that images are resized to; divisible by
            ``2**num_scales`` times the division rates. Defaults to ``(256, 256)``.
        division_rates (tuple[int, int, int] | None): Divisions ``(r_h, r_w, r_c)`` of the features of every scale;
            ``None`` divides them into pixels, as MemAE does. Defaults to ``(8, 8, 1)``.
        num_items (int): Memory items N of each scale. Defaults to ``500``.
        adversarial (bool): ``True`` is DAAD+, with the discriminator; ``False`` is DAAD. Defaults to ``True``.
        lambda_rec (float): Weight of the reconstruction loss. Defaults to ``50.0``.
        lambda_adv (float): Weight of the adversarial loss. Defaults to ``0.5``.
        lambda_ali (float): Weight of the alignment loss. Defaults to ``0.5``.
        gamma (float): Weight of R(x) in the fused score, in [0, 1]. Defaults to ``0.9``.
        learning_rate (float | None): Adam's learning rate, which Muon's is a multiple of; ``None`` is the paper's
            2e-4 for DAAD+ and 1e-4 for DAAD. Defaults to ``None``.
        optimizer (str): ``"adam"`` (the paper's), or ``"muon"``, whose convolutions step along orthogonal matrices,
            see :class:`Muon`. Defaults to ``"adam"``.
        flips (bool): Flip each training image horizontally and vertically at random. Defaults to ``True``.
        random_shift (int): Move each training image at random, by up to so many pixels at ``image_size``, with its
            borders repeated. Defaults to ``0``.
        seed (int | None): Makes initial weights, flips and the order of the data repeatable, epoch by epoch, so that
            a resumed run goes on as an uninterrupted one would. ``None`` follows the global random state.
            Defaults to ``None``.
        image_cache_gb (float): In training, decoded images are kept in memory if they take no more than this, in GB,
            and the data have no augmentations of their own; 0 keeps none. Defaults to ``2.0``.
        torch_compile (bool): Compile the networks with ``torch.compile`` for training. Checkpoints and exports are
            the same. On CPUs it is slower. Defaults to ``False``.
        num_scales (int): Scales of the autoencoder. Defaults to ``4``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        temperature (float): Softmax temperature of the memory. Defaults to ``1.0``.
        renormalize (bool): Renormalise the memory weights after the drop at 1/N. Defaults to ``False``.
        memory_init (str): Initial memory items, ``"normal"`` or ``"uniform"``. Defaults to ``"normal"``.
        drop_below (float): Memory weights below ``drop_below / N`` are dropped. Defaults to ``1.0``.
        connections (str): What connects encoder and decoder: ``"memory"`` (DAAD), ``"bottleneck_memory"`` (MemAE),
            ``"skip"`` (AE+Skip) or ``"none"`` (AE), see :class:`MemoryAutoencoder`. Defaults to ``"memory"``.
        memory_losses (dict[str, float] | None): Weights of losses on the memories, see :class:`MemoryLoss`.
            Defaults to ``None``.
        distance (str): The norm of eq. 4 and 6, ``"l2"`` or ``"mse"``. Defaults to ``"l2"``.
        generator_objective (str): The generator's side of eq. 5, ``"non_saturating"`` or ``"saturating"``.
            Defaults to ``"non_saturating"``.
        map_sigma (float): Blur of the anomaly map, in pixels at ``image_size``. Defaults to ``4.0``.
        restoration (bool): Train to restore good images that were corrupted, see :mod:`anomalib_daad.models.daad_restoration.corruption`; the
            light of each image varies, and the learning rate rises over the first tenth of the training and
            falls to zero along a cosine. Defaults to ``False``.
        score (str): What R(x) is, ``"mean_error"`` (the paper's), ``"maximum_error"``, ``"maximum_structure"`` or
            ``"maxima"``, see :class:`DaadModel`. The ranges of maxima are taken from good images alone. Defaults to
            ``"mean_error"``.
        comparison_channels (int): Channels of a learned comparison in L(x)'s place, which learns from the corruptions
            of ``restoration``; the anomaly map is then the two maps fused. 0 for none. Defaults to ``0``.
        standardize (bool): Reconstruct every image at the same mean and contrast, so that more or less light is no
            defect, see :class:`MemoryAutoencoder`; L_rec is of images at that contrast. Defaults to ``False``.
        placement_radius (int): Judge every image where it is reconstructed better, within so many pixels at
            ``image_size``, if training images have a place of their own, which textures have not, see
            :class:`PlacementSearch`. 0 for as it is. Defaults to ``0``.
        standardize_maps (bool): Judge each pixel of the maps by the mean and the deviation that good images had there
            in training, see :class:`MapStandardization`. Defaults to ``False``.
        error_map (bool): Add the error relative to each image's contrast to the anomaly map, in the same units, with
            twice the weight; of scores, ``"maxima"`` counts it too. Defaults to ``False``.
        downscale (int): The networks see images so many times smaller than ``image_size``, with the detail that this
            takes away as a fourth channel, see :class:`Downscale`; ``map_sigma`` and ``placement_radius`` count their
            pixels. 1 for images as they are. Defaults to ``1``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize, then scale [0, 1] to [-1, 1].
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.

    Example:
        >>> model = Daad(image_size=(128, 128), adversarial=False)
        >>> model.model.discriminator is None
        True
    """

    model: DaadModel

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        division_rates: tuple[int, int, int] | None = (8, 8, 1),
        num_items: int = 500,
        adversarial: bool = True,
        lambda_rec: float = 50.0,
        lambda_adv: float = 0.5,
        lambda_ali: float = 0.5,
        gamma: float = 0.9,
        learning_rate: float | None = None,
        optimizer: OptimizerName = "adam",
        flips: bool = True,
        random_shift: int = 0,
        seed: int | None = None,
        image_cache_gb: float = 2.0,
        torch_compile: bool = False,
        num_scales: int = 4,
        base_channels: int = 64,
        temperature: float = 1.0,
        renormalize: bool = False,
        memory_init: MemoryInit = "normal",
        drop_below: float = 1.0,
        connections: Connections = "memory",
        memory_losses: dict[str, float] | None = None,
        distance: Distance = "l2",
        generator_objective: GeneratorObjective = "non_saturating",
        map_sigma: float = 4.0,
        restoration: bool = False,
        score: ScoreKind = "mean_error",
        comparison_channels: int = 0,
        standardize: bool = False,
        placement_radius: int = 0,
        standardize_maps: bool = False,
        error_map: bool = False,
        downscale: int = 1,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        if learning_rate is not None and learning_rate <= 0:
            msg = f"learning_rate must be positive or None, got {learning_rate}."
            raise ValueError(msg)
        if random_shift < 0:
            msg = f"random_shift must not be negative, got {random_shift}."
            raise ValueError(msg)
        if optimizer not in get_args(OptimizerName):
            msg = f"optimizer must be one of {get_args(OptimizerName)}, got {optimizer!r}."
            raise ValueError(msg)
        if comparison_channels and not restoration:
            msg = "A learned comparison learns from the corruptions of restoration training: set restoration=True."
            raise ValueError(msg)
        with seeded(seed):
            self.model = DaadModel(
                image_size=image_size,
                division_rates=division_rates,
                num_items=num_items,
                adversarial=adversarial,
                gamma=gamma,
                num_scales=num_scales,
                base_channels=base_channels,
                temperature=temperature,
                renormalize=renormalize,
                memory_init=memory_init,
                distance=distance,
                map_sigma=map_sigma,
                drop_below=drop_below,
                connections=connections,
                score=score,
                comparison_channels=comparison_channels,
                standardize=standardize,
                placement_radius=placement_radius,
                standardize_maps=standardize_maps,
                error_map=error_map,
                downscale=downscale,
            ).to(memory_format=torch.channels_last)
        self.generator_loss = GeneratorLoss(lambda_rec, lambda_adv, lambda_ali, distance, generator_objective)
        self.discriminator_loss = DiscriminatorLoss()
        self.memory_loss = MemoryLoss(memory_losses)
        self.learning_rate = learning_rate or (2e-4 if adversarial else 1e-4)
        self.optimizer_name = optimizer
        self.restoration = restoration
        self.calibrates_on_good = score != "mean_error"
        self.flips = flips
        self.random_shift = random_shift
        self.seed = seed
        self.image_cache_gb = image_cache_gb
        self.torch_compile = torch_compile
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        """Configure an optimizer for the autoencoder and, for DAAD+, one for the discriminator.

        Returns:
            Any: The generator's optimizer, then the discriminator's; for restoration training with their schedules.
        """
        networks = [(self.model.autoencoder, self.model.comparison), (self.model.discriminator,)]
        groups = [nn.ModuleList([network for network in group if network is not None]) for group in networks]
        optimizers = [self._build_optimizer(group) for group in groups if len(group)]
        if not self.restoration:
            return optimizers
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            msg = "Restoration training needs to know how long it is: set max_epochs or max_steps of the trainer."
            raise ValueError(msg)
        return optimizers, [LambdaLR(optimizer, partial(annealed, steps=int(steps))) for optimizer in optimizers]

    def _build_optimizer(self, networks: nn.Module) -> torch.optim.Optimizer:
        weights = list(networks.parameters())
        if self.optimizer_name == "adam":
            return torch.optim.Adam(weights, lr=self.learning_rate, betas=(0.9, 0.999), fused=True)
        transposed = [layer.weight for layer in networks.modules() if isinstance(layer, nn.ConvTranspose2d)]
        return Muon(weights, lr=self.learning_rate, transposed=transposed)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Train on one batch and advance the schedules, where there are any.

        Args:
            batch (Batch): Good images in ``batch.image``, shape ``(B, 3, H, W)``, in [-1, 1].
            batch_idx (int): Index of the batch.

        Returns:
            STEP_OUTPUT: The generator's loss.
        """
        loss = super().training_step(batch, batch_idx)
        schedules = self.lr_schedulers() or []
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            schedule.step()  # type: ignore[call-arg]
        return loss

    def on_fit_start(self) -> None:
        """Compile the networks where that is asked for."""
        super().on_fit_start()
        if self.torch_compile:
            self.compile_networks()

    def compile_networks(self) -> None:
        """Compile encoder, decoder and discriminator in place, which leaves their parameters' names alone."""
        torch._functorch.config.donated_buffer = False  # noqa: SLF001  # two losses share one pass of the discriminator
        autoencoder = self.model.autoencoder
        for network in (autoencoder.encoder, autoencoder.decoder, self.model.discriminator):
            if network is not None:
                network.compile()

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute what each optimizer minimises.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The losses in the order of :meth:`configure_optimizers`.
        """
        images = self.model.downscale(images)
        targets, inputs, masks = images, images, None
        if self.restoration:
            targets = relight(images, *LIGHT)
            inputs, masks = corrupt(targets)
        output: TrainingOutput = self.model(inputs, targets)
        contrast = self.model.autoencoder.relative_contrast(inputs)
        terms = self.generator_loss(targets, output.reconstructions, output.real, output.fake, contrast)
        total = terms.total + self.memory_loss(output.reads)
        if masks is not None and output.defects is not None:
            total = total + binary_cross_entropy_with_logits(output.defects, masks)
        losses = [total]
        if output.real is not None and output.fake is not None:
            losses.append(self.discriminator_loss(output.real.logits, output.fake.logits))
        return TrainingLosses(terms, losses, self._scores_of_good(terms, targets, output, masks))

    @torch.no_grad()
    def _scores_of_good(
        self, terms: GeneratorTerms, images: torch.Tensor, output: TrainingOutput, masks: torch.Tensor | None
    ) -> Scores:
        """Score the images that were not corrupted."""
        good = slice(None) if masks is None else masks.flatten(1).amax(dim=1) == 0
        reconstruction = terms.reconstruction[good]
        alignment = None if terms.alignment is None else terms.alignment[good]
        if self.model.score_kind != "mean_error":
            defects = None if output.defects is None else output.defects[good]
            with full_precision(images):
                maps = self.model.maps(images[good], output.reconstructions[good], defects)
            reconstruction = self.model.strongest(maps)
            alignment = alignment if maps.comparison is None else maximum(maps.comparison)
        return Scores(reconstruction, alignment)

    def on_validation_start(self) -> None:
        """Learn whether parts have a place of their own before the ranges of the scores are taken."""
        self._learn_placement()
        super().on_validation_start()

    def on_train_epoch_end(self) -> None:
        """The same where there is no validation."""
        if not (self.trainer.enable_validation and self._validated):
            self._learn_placement()
        super().on_train_epoch_end()

    def _learn_placement(self) -> None:
        """Measure on the latest training images what a movement does to their error."""
        if self.model.placement is None or self._latest_images is None:
            return
        images = self.model.downscale(self._latest_images)
        with evaluating(self.model):
            growth = self.model.placement.measure_growth(images, self.model.autoencoder)
        self.model.placement.growth.copy_(gather(growth).median())

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: What ``downscale`` makes of the images, and its reconstruction.
        """
        images = self.model.downscale(images)
        return images, self.model.autoencoder(images)

    def inference_model(self) -> DaadModel:
        """Network that is exported: rewritten by :func:`for_inference`.

        Returns:
            DaadModel: Network in evaluation mode.
        """
        return for_inference(self.model)


def annealed(step: int, steps: int) -> float:
    """Learning rate of a restoration training, relative to its largest.

    Args:
        step (int): Steps done.
        steps (int): Steps of the whole training.

    Returns:
        float: In (0, 1].
    """
    progress = min(1.0, step / steps)
    return min((progress + 1 / steps) / WARM_UP, (1 + math.cos(math.pi * progress)) / 2 + 1e-6)

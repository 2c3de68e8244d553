# SPDX-License-Identifier: Apache-2.0

"""The recommended detector as an anomalib model: corrupt good images, restore them, compare.

Learns from good images alone, without pretrained weights and without images from elsewhere: the network learns to
restore good images that were corrupted with pieces of other good images, a small one to compare an image with its
restoration. What it cannot restore is anomalous.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anomalib_daad import DaadRestoration

    >>> datamodule = MVTecAD(category="bottle", train_batch_size=8)
    >>> Engine().train(DaadRestoration(), datamodule=datamodule)  # 3000 steps  # doctest: +SKIP

See Also:
    :class:`anomalib_daad.models.daad_restoration.torch_model.RestorationModel`: the networks and the score.
    :mod:`anomalib_daad.models.daad_restoration.corruption`: what training has to undo.
"""

from collections.abc import Mapping
from typing import Any

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR

from anomalib_daad.components.distance import sample_distance
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.image_size import height_and_width
from anomalib_daad.components.network import evaluating
from anomalib_daad.components.precision import full_precision
from anomalib_daad.training.distributed import gather
from anomalib_daad.training.randomness import seeded
from anomalib_daad.training.reconstruction_training import ReconstructionTraining, TrainingLosses

from .corruption import corrupt, relight
from .difference_maps import Maps
from .light import light
from .movement import random_shifts
from .muon import Muon
from .schedule import schedule
from .tiles import AT_ONCE, random_crops
from .torch_model import RestorationModel, Restored

LAMBDA_REC = 50.0
MOST_FOR_TEMPLATE = 2**27  # bytes of images, of all processes: 2048 of 64 px, 128 of 256 px
LIGHT = (0.1, 0.2)  # of good images: contrast and brightness that training varies


class DaadRestoration(ReconstructionTraining, AnomalibModule):
    """Restoration training with block-wise memories, for parts and surfaces of which only good images are known.

    A training takes 3000 steps unless the trainer is given ``max_steps``, ``max_epochs`` or ``max_time``.
    The recipe's steps are of 8 images: give the datamodule ``train_batch_size=8``.
    Training images are moved at random by up to half of ``downscale`` pixels.

    Args:
        image_size (tuple[int, int] | int): Height and width that images are resized to, multiples of 16 times
            ``downscale``, 64 by default. Defaults to ``(256, 256)``.
        downscale (int): The networks see images so many times smaller, 2, 4 or 8, and how much detail that took away.
            Defaults to ``4``.
        base_channels (int): Channels of the autoencoder's finest scale; 32 costs half of 64 and is as good for parts
            that look alike. Defaults to ``64``.
        placement_radius (int | None): Each image is judged where its part belongs, within so many pixels of what the
            networks see, if training images have a place of their own; ``None`` for a tenth of what the networks see,
            0 for as it is. Defaults to ``None``.
        tile_size (int | None): Height and width of the overlapping tiles that the networks see of a large image, in
            pixels of ``image_size``, a multiple of 16 times ``downscale``. A training step sees one tile of each image,
            at a random place. Parts are not moved then, so that ``placement_radius`` is left out. Defaults to ``None``,
            the whole image.
        learning_rate (float): Adam's learning rate at the height of its schedule, which Muon's is a multiple of.
            Defaults to ``2e-3``.
        seed (int | None): Makes initial weights, corruptions and the order of the data repeatable, epoch by epoch, also
            of a run that is resumed; ``None`` follows the global random state. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize, then scale [0, 1] to [-1, 1].
        post_processor (PostProcessor | bool): Defaults to ``True``: thresholds that reject 1 of 100 good images.
        evaluator (Evaluator | bool): Defaults to ``True``: anomalib's, and AUROC in validation.
        visualizer (Visualizer | bool): Defaults to ``True``: image, what was expected, what is odd.

    Raises:
        ValueError: If an argument is out of range or the image size does not fit.

    Example:
        >>> model = DaadRestoration(image_size=(128, 192), base_channels=32)
        >>> model.model.autoencoder.memories[0].division_rates
        (4, 6, 1)
    """

    model: RestorationModel
    default_steps = 3000
    calibrates_on_good = True

    def __init__(
        self,
        image_size: tuple[int, int] | int = (256, 256),
        downscale: int = 4,
        base_channels: int = 64,
        placement_radius: int | None = None,
        tile_size: int | None = None,
        learning_rate: float = 2e-3,
        seed: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if not (isinstance(learning_rate, int | float) and learning_rate > 0):
            msg = f"learning_rate must be positive, got {learning_rate}."
            raise ValueError(msg)
        image_size = height_and_width(image_size)
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        with seeded(seed):
            model = RestorationModel(image_size, downscale, base_channels, placement_radius, tile_size)
            self.model = model.to(memory_format=torch.channels_last)
        self.tile_size = tile_size
        self.learning_rate = learning_rate
        self.seed = seed

    def configure_optimizers(self) -> Any:
        """Configure Muon for both networks, with a schedule over the length of the training.

        Returns:
            Any: Optimizer and schedule, a list of each.
        """
        optimizer = self.make_optimizer(self.learning_rate)
        return [optimizer], [LambdaLR(optimizer, schedule(self.trainer))]

    def make_optimizer(self, learning_rate: float) -> Muon:
        """Make an optimizer of both networks.

        Args:
            learning_rate (float): Adam's learning rate, which Muon's is a multiple of.

        Returns:
            Muon: Optimizer.
        """
        networks = nn.ModuleList([self.model.autoencoder, self.model.comparison])
        transposed = [layer.weight for layer in networks.modules() if isinstance(layer, nn.ConvTranspose2d)]
        return Muon(networks.parameters(), lr=learning_rate, transposed=transposed)

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute the loss: of restorations at equal contrast (eq. 4), and of the comparison.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: One loss; the scores are those of the images, or tiles, that were not corrupted.
        """
        self._collect(images)
        if self.tile_size is not None:
            images = random_crops(images, self.tile_size)
        seen = self.model.detail(random_shifts(images, self.model.downscale // 2))
        good = relight(seen, *LIGHT)
        corrupted, masks = corrupt(good)
        output = self.model.restore_and_compare(corrupted)
        scale = output.light.scale  # images of little contrast weigh as much as others
        error = sample_distance(good / scale, output.restorations / scale)
        total = LAMBDA_REC * error.mean() + binary_cross_entropy_with_logits(output.defects, masks)
        logged = {"train_rec": sample_distance(good, output.restorations).mean()}
        return TrainingLosses([total], self._scores_of_good(good, output, masks), logged)

    @torch.no_grad()
    def _scores_of_good(self, good: torch.Tensor, output: Restored, masks: torch.Tensor) -> Scores:
        """Score the images that were not corrupted, whose maps are learnt from."""
        kept = masks.flatten(1).amax(dim=1) == 0
        with full_precision(good):
            maps = self.model.maps(good[kept], output.restorations[kept], output.defects[kept])
        return Maps(*maps.split(1, dim=1)).scores()

    def make_room(self, state: Mapping[str, torch.Tensor]) -> None:
        """Judge by the maps of a trained model, which had none of colour before."""
        super().make_room(state)
        usual = state.get("model.standardization.running_mean")
        if usual is not None and usual.ndim == 4:
            self.model.take_maps(usual.shape[1])

    def complete(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Let a model that was trained without registration search as it did then."""
        state = super().complete(state)
        registration, search = self.model.registration, self.model.placement
        if registration is None or search is None or "model.registration.template" in state:
            return state
        registration.forget()
        search.radius = registration.radius
        own = {key: value for key, value in self.state_dict().items() if key.startswith("model.registration.")}
        return {**own, **state}

    def setup(self, stage: str) -> None:
        """Take up colour in a new training, also of a model that was trained without."""
        super().setup(stage)
        if stage == TrainerFn.FITTING and self.trainer.ckpt_path is None:
            self.model.take_maps(len(Maps._fields))

    def on_fit_start(self) -> None:
        """Learn anew where parts lie, unless a training goes on."""
        super().on_fit_start()
        registration = self.model.registration
        if registration is None or (self.trainer.ckpt_path is not None and registration.is_learnt):
            return
        registration.forget()
        self._first_images = []

    @torch.no_grad()
    def _collect(self, images: torch.Tensor) -> None:
        """Keep the first epoch's images, as the networks see them at equal light, for the template."""
        if self._first_images is None:
            return
        if sum(it.nbytes for it in self._first_images) >= MOST_FOR_TEMPLATE / self.trainer.world_size:
            return
        seen = self.model.detail(images)
        self._first_images.append(light(seen).take(seen))

    def on_train_epoch_end(self) -> None:
        """Learn from the first epoch where parts lie."""
        self._learn_template()
        super().on_train_epoch_end()

    def _learn_template(self) -> None:
        if self._first_images and self.model.registration is not None:
            self.model.registration.learn(gather(torch.cat(self._first_images)))
            self._first_images = None

    def before_calibration(self) -> None:
        """Learn from training images whether parts have a place of their own."""
        self._learn_template()
        search, registration = self.model.placement, self.model.registration
        if search is None or self._latest_images is None or (registration is not None and registration.is_known):
            return
        seen = self.model.detail(self._latest_images)
        with evaluating(self.model):
            growth = search.measure_growth(seen, self.model.restore)
        search.growth.copy_(gather(growth).median())

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Restore images, or their tiles, as the networks see them."""
        seen = torch.cat([self.model.detail(tiles) for tiles in self.model.tiling.cut(images)])
        return seen, torch.cat([self.model.restore(tiles) for tiles in seen.split(AT_ONCE)])

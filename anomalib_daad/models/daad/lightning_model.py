# SPDX-License-Identifier: Apache-2.0

"""DAAD and DAAD+ as an anomalib model: the paper's training of two networks.

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

from collections.abc import Sequence
from typing import ClassVar

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_daad.components.autoencoder import Connections
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.image_size import height_and_width
from anomalib_daad.training.randomness import seeded
from anomalib_daad.training.reconstruction_training import ReconstructionTraining, TrainingLosses

from .loss import DiscriminatorLoss, GeneratorLoss
from .torch_model import Addressing, DaadModel

_RESTORATION = "restoration training is a model of its own, DaadRestoration, whose defaults are the recommended recipe"
_MOVED = (
    *("restoration", "score", "comparison_channels", "standardize", "standardize_maps", "error_map"),
    *("placement_radius", "downscale", "random_shift", "optimizer"),
)


class Daad(ReconstructionTraining, AnomalibModule):
    """Divide-and-Assemble Anomaly Detection, and the other systems of its paper's tables.

    Args:
        image_size (tuple[int, int] | int): Height and width that images are resized to; divisible by 16, below 64 px
            by 8, times the division rates. Defaults to ``(256, 256)``.
        division_rates (tuple[int, int, int] | None): Divisions ``(r_h, r_w, r_c)`` of the features of every scale;
            ``None`` divides them into pixels, as MemAE does. Defaults to ``(8, 8, 1)``.
        num_items (int): Memory items N of each scale. Defaults to ``500``.
        connections (str): What connects encoder and decoder: ``"memory"`` (DAAD), ``"bottleneck_memory"`` (MemAE),
            ``"skip"`` (AE+Skip) or ``"none"`` (AE), see :class:`MemoryAutoencoder`. Defaults to ``"memory"``.
        adversarial (bool): ``True`` is DAAD+, with the discriminator; ``False`` is DAAD. Defaults to ``True``.
        lambdas (tuple[float, float, float]): Weights of the reconstruction, adversarial and alignment losses (eq. 3).
            Defaults to ``(50.0, 0.5, 0.5)``.
        gamma (float): Weight of R(x) in the fused score, in [0, 1]. Defaults to ``0.9``.
        learning_rate (float | None): Adam's learning rate; ``None`` is the paper's, 2e-4 for DAAD+ and 1e-4 for DAAD.
            Defaults to ``None``.
        flips (bool): Flip each training image horizontally and vertically at random. Defaults to ``True``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        seed (int | None): Makes initial weights, flips and the order of the data repeatable, epoch by epoch, so that
            a resumed run goes on as an uninterrupted one would. ``None`` follows the global random state.
            Defaults to ``None``.
        addressing (str): How blocks address a memory: ``"sharp"`` lets them choose a few items, by cosines at
            temperature 0.05; ``"paper"`` is eq. 1 as printed, which mixes half of the items. Defaults to ``"sharp"``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize, then scale [0, 1] to [-1, 1].
        post_processor (PostProcessor | bool): Defaults to ``True``: thresholds that reject 1 of 100 good images.
        evaluator (Evaluator | bool): Defaults to ``True``: anomalib's, and AUROC in validation.
        visualizer (Visualizer | bool): Defaults to ``True``: image, what was expected, what is odd.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.

    Example:
        >>> model = Daad(image_size=(128, 128), adversarial=False)
        >>> model.model.discriminator is None
        True
    """

    model: DaadModel
    moved_arguments: ClassVar = {
        **dict.fromkeys(_MOVED, _RESTORATION),
        **dict.fromkeys(("lambda_rec", "lambda_adv", "lambda_ali"), "lambdas are the three weights (rec, adv, ali)"),
        "image_cache_gb": "give the trainer the callback anomalib_daad.training.ImageCache",
        "torch_compile": "give the trainer the callback anomalib_daad.training.CompileNetworks",
    }

    def __init__(
        self,
        image_size: tuple[int, int] | int = (256, 256),
        division_rates: tuple[int, int, int] | None = (8, 8, 1),
        num_items: int = 500,
        connections: Connections = "memory",
        adversarial: bool = True,
        lambdas: tuple[float, float, float] = (50.0, 0.5, 0.5),
        gamma: float = 0.9,
        learning_rate: float | None = None,
        flips: bool = True,
        base_channels: int = 64,
        seed: int | None = None,
        addressing: Addressing = "sharp",
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if learning_rate is not None and not learning_rate > 0:
            msg = f"learning_rate must be positive or None, got {learning_rate}."
            raise ValueError(msg)
        if not isinstance(lambdas, Sequence) or len(lambdas) != 3:
            msg = f"lambdas must be the three weights (rec, adv, ali), got {lambdas}."
            raise ValueError(msg)
        image_size = height_and_width(image_size)
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        with seeded(seed):
            self.model = DaadModel(
                image_size, division_rates, num_items, connections, adversarial, gamma, base_channels, addressing
            ).to(memory_format=torch.channels_last)
        self.generator_loss = GeneratorLoss(*lambdas)
        self.discriminator_loss = DiscriminatorLoss()
        self.learning_rate = learning_rate or (2e-4 if adversarial else 1e-4)
        self.flips = flips
        self.seed = seed

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Configure Adam for the autoencoder and, for DAAD+, one more for the discriminator.

        Returns:
            list[torch.optim.Optimizer]: The generator's optimizer, then the discriminator's.
        """
        networks = [self.model.autoencoder, self.model.discriminator]
        return [
            torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=(0.9, 0.999), fused=True)
            for network in networks
            if network is not None
        ]

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute what each network minimises (section 3.2).

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The generator's loss, then the discriminator's.
        """
        output = self.model.reconstruct_for_losses(images)
        terms = self.generator_loss(images, output.reconstructions, output.real, output.fake)
        losses, logged = [terms.total], {"train_rec": terms.reconstruction.mean()}
        if output.real is not None and output.fake is not None:
            losses.append(self.discriminator_loss(output.real.logits, output.fake.logits))
            logged |= {"train_adv": terms.adversarial, "train_ali": terms.alignment.mean(), "train_dis": losses[1]}
        return TrainingLosses(losses, Scores(terms.reconstruction, terms.alignment), logged)

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct images."""
        return images, self.model.autoencoder(images)

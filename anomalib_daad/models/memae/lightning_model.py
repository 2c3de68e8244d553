# SPDX-License-Identifier: Apache-2.0

"""MemAE as an anomalib model, trained by the mean squared error and the entropy of the memory's weights.

The memory, its losses and its numbers are those of MemAE's public code. Encoder and decoder are DAAD's, without skip
connections, so that memories can be compared. MemAE as DAAD's paper re-implements it is
``Daad(connections="bottleneck_memory", division_rates=None, adversarial=False)``.

Paper:
    Title: Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder
    URL: https://arxiv.org/abs/1904.02639

Example:
    >>> from anomalib_daad import MemAe
    >>> model = MemAe(image_size=(64, 64))
    >>> model.model.autoencoder.memories[-1].items.shape
    torch.Size([2000, 512])
"""

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.image_size import height_and_width
from anomalib_daad.components.memory_loss import MemoryLoss
from anomalib_daad.training.randomness import seeded
from anomalib_daad.training.reconstruction_training import ReconstructionTraining, TrainingLosses

from .torch_model import MemAeModel, mean_square


class MemAe(ReconstructionTraining, AnomalibModule):
    """Memory-augmented autoencoder.

    Args:
        image_size (tuple[int, int] | int): Height and width that images are resized to; divisible by 16, below 64 px
            by 8. Defaults to ``(256, 256)``.
        num_items (int): Memory items N. Defaults to ``2000``.
        entropy (float): Weight of the entropy of the weights, at least 0. Defaults to ``2e-4``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        seed (int | None): As for :class:`Daad`. Defaults to ``None``.
        learning_rate (float): Adam's learning rate. Defaults to ``1e-4``.
        flips (bool): Flip each training image horizontally and vertically at random. Defaults to ``False``.
        shrinkage (float): Weights below ``shrinkage / N`` are dropped, at least 0. The code has 5, the paper 1 to 3.
            What keeps no weight reads zero and learns nothing; a training says so where half of the blocks do.
            Defaults to ``5.0``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize, then scale [0, 1] to [-1, 1].
        post_processor (PostProcessor | bool): Defaults to ``True``: thresholds that reject 1 of 100 good images.
        evaluator (Evaluator | bool): Defaults to ``True``: anomalib's, and AUROC in validation.
        visualizer (Visualizer | bool): Defaults to ``True``: image, what was expected, what is odd.

    Raises:
        ValueError: If an argument is out of range, or 16 does not divide the size.
    """

    model: MemAeModel

    def __init__(
        self,
        image_size: tuple[int, int] | int = (256, 256),
        num_items: int = 2000,
        entropy: float = 2e-4,
        base_channels: int = 64,
        seed: int | None = None,
        learning_rate: float = 1e-4,
        flips: bool = False,
        shrinkage: float = 5.0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if not (learning_rate > 0 and entropy >= 0 and shrinkage >= 0):
            msg = "learning_rate must be positive, entropy and shrinkage not negative, got "
            msg += f"{learning_rate}, {entropy} and {shrinkage}."
            raise ValueError(msg)
        image_size = height_and_width(image_size)
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        with seeded(seed):
            network = MemAeModel(image_size, num_items, base_channels, shrinkage)
            self.model = network.to(memory_format=torch.channels_last)
        self.memory_loss = MemoryLoss({"entropy": entropy})
        self.learning_rate = learning_rate
        self.flips = flips
        self.seed = seed

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam.

        Returns:
            torch.optim.Optimizer: Optimizer of the autoencoder.
        """
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, betas=(0.9, 0.999), fused=True)

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute the loss.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The mean squared error and the weighted entropy, a scalar.
        """
        reconstructions, reads = self.model.reconstruct_for_losses(images)
        error = mean_square(images, reconstructions)
        total = error.mean() + self.memory_loss(reads)
        return TrainingLosses([total], Scores(error, None), {"train_rec": error.mean()})

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct images."""
        return images, self.model.autoencoder(images)

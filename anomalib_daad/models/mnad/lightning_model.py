# SPDX-License-Identifier: Apache-2.0

"""MNAD as an anomalib model: the reconstruction task, with memory or without.

Built of DAAD's encoder and decoder, without skip connections, so that the two memories can be compared. The README of
this folder names what differs from MNAD's own code.

Paper:
    Title: Learning Memory-guided Normality for Anomaly Detection
    URL: https://arxiv.org/abs/2003.13228

Example:
    >>> from anomalib_daad import Mnad
    >>> model = Mnad(image_size=(64, 64))
    >>> model.model.memory.items.shape
    torch.Size([10, 512])

See Also:
    :class:`anomalib_daad.models.mnad.torch_model.MnadModel`: the network and the score.
    :class:`anomalib_daad.models.mnad.prototype_memory.PrototypeMemory`: the memory and its update.
"""

import math
from typing import Any

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_daad.components.image_size import height_and_width
from anomalib_daad.components.memory_loss import MemoryLoss
from anomalib_daad.training.randomness import seeded
from anomalib_daad.training.reconstruction_training import ReconstructionTraining, TrainingLosses

from .torch_model import MnadModel

WEIGHT = 0.01  # of compactness and separateness: what the authors' code has for reconstruction


class Mnad(ReconstructionTraining, AnomalibModule):
    """Learning Memory-guided Normality for Anomaly Detection, reconstruction task.

    Args:
        image_size (tuple[int, int] | int): Height and width that images are resized to; divisible by 16, below 64 px
            by 8. Defaults to ``(256, 256)``.
        num_items (int): Memory items; 0 is the variant without memory. Defaults to ``10``.
        gamma (float): Weight of PSNR in the score, the paper's lambda, in [0, 1]. Defaults to ``0.7``.
        uniform_use (float): Weight of the reproduction's additional loss, that all items are used alike, beside the
            paper's compactness and separateness. Defaults to ``0.0``.
        learning_rate (float): Adam's learning rate at the start of its cosine schedule. Defaults to ``2e-5``.
        flips (bool): Flip each training image horizontally and vertically at random. Defaults to ``False``.
        seed (int | None): As for :class:`Daad`. Defaults to ``None``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize, then scale [0, 1] to [-1, 1].
        post_processor (PostProcessor | bool): Defaults to ``True``: thresholds that reject 1 of 100 good images.
        evaluator (Evaluator | bool): Defaults to ``True``: anomalib's, and AUROC in validation.
        visualizer (Visualizer | bool): Defaults to ``True``: image, what was expected, what is odd.

    Raises:
        ValueError: If an argument is out of range, or 16 does not divide the image size.
    """

    model: MnadModel

    def __init__(
        self,
        image_size: tuple[int, int] | int = (256, 256),
        num_items: int = 10,
        gamma: float = 0.7,
        uniform_use: float = 0.0,
        learning_rate: float = 2e-5,
        flips: bool = False,
        seed: int | None = None,
        base_channels: int = 64,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if num_items < 0 or not (learning_rate > 0 and uniform_use >= 0):
            msg = "num_items and uniform_use must not be negative and learning_rate positive, got "
            msg += f"{num_items}, {uniform_use} and {learning_rate}."
            raise ValueError(msg)
        image_size = height_and_width(image_size)
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        with seeded(seed):
            self.model = MnadModel(image_size, num_items, gamma, base_channels).to(memory_format=torch.channels_last)
        second = {"separateness": WEIGHT} if num_items > 1 else {}  # it needs a second item
        self.memory_loss = MemoryLoss({"compactness": WEIGHT, **second, "uniform_use": uniform_use})
        self.learning_rate = learning_rate
        self.flips = flips
        self.seed = seed

    def configure_optimizers(self) -> Any:
        """Configure Adam, with a cosine schedule over the steps that the trainer announces.

        Returns:
            Any: Optimizer and schedule, a dictionary.
        """
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, betas=(0.9, 0.999), fused=True)
        steps = max(1, int(min(self.trainer.estimated_stepping_batches, 1e9)))
        # A function of the steps alone: CosineAnnealingLR keeps the length of an earlier run in a resumed one.
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
        )
        return {"optimizer": optimizer, "lr_scheduler": cosine}

    def losses(self, images: torch.Tensor) -> TrainingLosses:
        """Compute the loss, and let the memory move towards the queries, without gradient.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            TrainingLosses: The loss, a scalar; as scores the negative PSNR in place of R(x) and the feature distance
            in place of L(x).
        """
        output = self.model.reconstruct_for_losses(images)
        total = (images - output.reconstructions).square().mean() + self.memory_loss(output.reads)
        scores = self.model.compare(images, output)
        if self.model.memory is not None and self.training:
            self.model.memory.update(output.reads[0].queries)
        return TrainingLosses([total], scores, {"train_rec": scores.reconstruction.mean()})

    def rebuild(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct images."""
        return images, self.model.reconstruct(images).reconstructions

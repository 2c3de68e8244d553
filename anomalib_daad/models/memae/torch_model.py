# SPDX-License-Identifier: Apache-2.0

"""MemAE as a plain PyTorch module, built of DAAD's encoder and decoder: one memory of pixels at the bottleneck.

Example:
    >>> import torch
    >>> network = MemAeModel((64, 64), num_items=100, base_channels=64, shrinkage=1.0).eval()
    >>> network(torch.rand(2, 3, 64, 64) * 2 - 1).pred_score.shape
    torch.Size([2])
"""

import torch

from anomalib_daad.components.autoencoder import MemoryAutoencoder, Reconstruction, memory_of
from anomalib_daad.components.error_map import ErrorMap
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.components.network import AnomalyNetwork, Explanation, Judgement, Wording


class MemAeModel(AnomalyNetwork):
    """Autoencoder with a memory: softmax of inner products, hard shrinkage, renormalised, uniform initial items.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        num_items (int): Memory items N.
        base_channels (int): Channels of the finest scale.
        shrinkage (float): Weights below ``shrinkage / N`` are dropped.

    Raises:
        ValueError: If an argument is out of range or the sizes do not divide.
    """

    wording = Wording(reconstruction="the mean squared error of the reconstruction", alignment="nothing")

    def __init__(self, image_size: tuple[int, int], num_items: int, base_channels: int, shrinkage: float) -> None:
        super().__init__(image_size, gamma=1.0)
        options = {"renormalize": True, "init": "uniform", "similarity": "inner_product", "drop_below": shrinkage}
        memory = memory_of(num_items, **options)
        self.autoencoder = MemoryAutoencoder(self.image_size, None, memory, base_channels, "bottleneck_memory")
        self.error_map = ErrorMap()

    def reconstruct_for_losses(self, images: torch.Tensor) -> Reconstruction:
        """Reconstruct images, and tell what the memory did."""
        return self.autoencoder.reconstruct(images)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Score images by their mean squared error, and map it."""
        reconstructions = self.autoencoder(images)
        return Judgement(Scores(mean_square(images, reconstructions), None), self.error_map(images, reconstructions))

    def explain(self, images: torch.Tensor) -> Explanation:
        """Show images and reconstructions."""
        images = self.cover(images)
        return Explanation(images, *self.autoencoder.reconstruct(images))


def mean_square(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image.

    Args:
        images (torch.Tensor): Images, shape ``(B, C, H, W)``.
        reconstructions (torch.Tensor): Their reconstructions, same shape.

    Returns:
        torch.Tensor: Shape ``(B,)``, in at least float32.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    return (images.to(dtype) - reconstructions.to(dtype)).flatten(1).square().mean(dim=1)

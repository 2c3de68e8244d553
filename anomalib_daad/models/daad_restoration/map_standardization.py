# SPDX-License-Identifier: Apache-2.0

"""What good images show at each place of a map: a place is judged by that, as PaDiM judges features.

Edges and borders are restored less well than flat regions, in good images as in defective ones. The mean and the
deviation of each pixel, over the latest good images of training, say how much of a difference is usual there.

Paper:
    PaDiM: https://arxiv.org/abs/2011.08785

Example:
    >>> import torch
    >>> standardization = MapStandardization([1e-6, 1e-6], (64, 64)).train()
    >>> for _ in range(10):
    ...     standardized = standardization(5 + 2 * torch.randn(8, 2, 64, 64))
    >>> standardized.shape
    torch.Size([8, 2, 64, 64])
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from anomalib_daad.components.gaussian_blur import GaussianBlur

HORIZON = 300  # latest images that count
SIGMA = 1.0  # of the statistics' blur, in pixels: neighbours say much the same
MIN_DEVIATION = 1e-6  # of all maps in pickles of an earlier version


class Usual(NamedTuple):
    """What is usual at each place of maps.

    Attributes:
        mean (torch.Tensor): Shape ``(1, K, H, W)``.
        deviation (torch.Tensor): Positive, same shape.
    """

    mean: torch.Tensor
    deviation: torch.Tensor


class Statistics(NamedTuple):
    """What was learnt of each pixel of maps.

    Attributes:
        mean (torch.Tensor): Shape ``(1, K, H, W)``.
        variance (torch.Tensor): Same shape.
    """

    mean: torch.Tensor
    variance: torch.Tensor


class MapStandardization(nn.Module):
    """Subtract the mean that good images have at each pixel and divide by their deviation there.

    The deviation of a pixel is averaged with that of the whole map, so that a place where nothing ever differed does
    not count for more than all others. Like batch norm, it learns in training mode, from the maps it is given; unlike
    batch norm, it standardises with what it has learnt in training mode too.

    Args:
        least_deviations (Sequence[float]): Smallest deviation of each of the K maps of an image that is believed,
            positive.
        size (tuple[int, int]): Height and width of the maps.

    Attributes:
        running_mean (torch.Tensor): Mean of each pixel over the latest images, shape ``(1, K, H, W)``.
        running_var (torch.Tensor): Variance of each pixel over the latest images, same shape.
        count (torch.Tensor): Images seen, a scalar.
    """

    least: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    count: torch.Tensor

    def __init__(self, least_deviations: Sequence[float], size: tuple[int, int]) -> None:
        super().__init__()
        self.blur = GaussianBlur(SIGMA)
        num_maps = len(least_deviations)
        self.register_buffer("least", torch.tensor(least_deviations)[None, :, None, None], persistent=False)
        self.register_buffer("running_mean", torch.zeros(1, num_maps, *size))
        self.register_buffer("running_var", torch.ones(1, num_maps, *size))
        self.register_buffer("count", torch.tensor(0.0))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickle, also one of a version with the same least deviation of all maps."""
        super().__setstate__(state)
        if "least" not in self._buffers:
            least = torch.full((1, self.num_maps, 1, 1), MIN_DEVIATION, device=self.running_mean.device)
            self.register_buffer("least", least, persistent=False)

    @property
    def num_maps(self) -> int:
        """Maps of each image, K."""
        return self.running_mean.shape[1]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Standardise maps, in training mode after learning from them.

        Args:
            maps (torch.Tensor): Maps, in training mode of good images, shape ``(B, K, H, W)``, float32.

        Returns:
            torch.Tensor: Standardised maps, same shape.
        """
        if self.training and len(maps):
            self._learn(maps.detach())
        usual = self.usual()
        return (maps - usual.mean) / usual.deviation

    def usual(self) -> Usual:
        """Blur the statistics.

        Returns:
            Usual: What each place is judged by.
        """
        variance = self.blur(self.running_var)
        deviation = (variance.sqrt() + variance.mean(dim=(2, 3), keepdim=True).sqrt()) / 2
        return Usual(self.blur(self.running_mean), torch.maximum(deviation, self.least))

    def learn_anew(self, maps: torch.Tensor) -> None:
        """Forget what was learnt, and learn from these maps alone.

        Args:
            maps (torch.Tensor): Maps of good images, shape ``(n, K, H, W)``, float32, two at least.
        """
        self.running_mean.copy_(maps.mean(dim=0, keepdim=True))
        self.running_var.copy_(maps.var(dim=0, keepdim=True))
        self.count.fill_(len(maps))

    @property
    def statistics(self) -> Statistics:
        """What was learnt so far, a copy."""
        return Statistics(self.running_mean.clone(), self.running_var.clone())

    def remember(self, statistics: Statistics) -> None:
        """Standardise by statistics that were learnt before.

        Args:
            statistics (Statistics): A copy of them.
        """
        self.running_mean.copy_(statistics.mean)
        self.running_var.copy_(statistics.variance)

    def mix_in(self, other: Statistics) -> None:
        """Take mean and variance of the images learnt from and of others, as if there were as many of these.

        Args:
            other (Statistics): Statistics of the others.
        """
        distance = other.mean - self.running_mean
        self.running_mean.lerp_(other.mean, 0.5)
        self.running_var.lerp_(other.variance, 0.5).add_(distance.square() / 4)

    def _learn(self, maps: torch.Tensor) -> None:
        self.count += len(maps)
        share = len(maps) / self.count.clamp_max(max(HORIZON, len(maps)))
        distance = maps.mean(dim=0, keepdim=True) - self.running_mean
        variance = maps.var(dim=0, correction=0, keepdim=True) + (1 - share) * distance.square()
        self.running_mean.add_(share * distance)
        self.running_var.lerp_(variance, share)


class SettledStandardization(nn.Module):
    """Standardisation that learns no more, for exports.

    Args:
        usual (Usual): What each place of the maps is judged by.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, usual: Usual) -> None:
        super().__init__()
        self.register_buffer("mean", usual.mean)
        self.register_buffer("deviation", usual.deviation)

    @property
    def num_maps(self) -> int:
        """Maps of each image, K."""
        return self.mean.shape[1]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Standardise maps.

        Args:
            maps (torch.Tensor): Maps, shape ``(B, K, H, W)``, float32.

        Returns:
            torch.Tensor: Standardised maps, same shape.
        """
        return (maps - self.mean) / self.deviation

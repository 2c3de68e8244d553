# SPDX-License-Identifier: Apache-2.0

"""MNAD's memory: a few unit vectors, read by every pixel, updated without gradient.

Paper:
    Title: Learning Memory-guided Normality for Anomaly Detection
    URL: https://arxiv.org/abs/2003.13228

Example:
    >>> import torch
    >>> memory = PrototypeMemory(num_channels=64, num_items=10)
    >>> memory(torch.randn(2, 64, 8, 8)).shape
    torch.Size([2, 128, 8, 8])
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from anomalib_daad.components.block_memory import MemoryRead


class PrototypeMemory(nn.Module):
    """Items that pixels read densely and that move towards the pixels nearest to them.

    Args:
        num_channels (int): Channels C of the features.
        num_items (int): Number of items N, at least 1. Defaults to ``10``.

    Attributes:
        items (torch.Tensor): Items, unit vectors, shape ``(N, C)``; a buffer.

    Raises:
        ValueError: If there is no item.
    """

    items: torch.Tensor

    def __init__(self, num_channels: int, num_items: int = 10) -> None:
        super().__init__()
        if num_items < 1:
            msg = f"num_items must be at least 1, got {num_items}."
            raise ValueError(msg)
        self.register_buffer("items", normalize(torch.rand(num_items, num_channels), dim=1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Concatenate every query with what the memory holds of it.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Queries and reads, shape ``(B, 2 C, H, W)``.
        """
        return self.read(features).features

    def read(self, features: torch.Tensor) -> MemoryRead:
        """Read, and tell how.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            MemoryRead: Queries and reads, the queries ``q_k`` as unit vectors ``(B, H W, C)``, the items, and the
            weights ``w_km``, the softmax over the items of their inner products. As in MNAD's code, no gradient flows
            through the read half of the features.
        """
        height, width = features.shape[2:]
        queries = normalize(features.flatten(2).transpose(1, 2).to(self.items.dtype), dim=2)  # (B, H W, C)
        weights = (queries @ self.items.T).softmax(dim=2)  # (B, H W, N)
        both = torch.cat([queries, weights.detach() @ self.items], dim=2)  # (B, H W, 2 C)
        features = both.transpose(1, 2).unflatten(2, (height, width))
        return MemoryRead(features, queries, self.items, weights, (height, width, 1))

    @torch.no_grad()
    def update(self, queries: torch.Tensor) -> None:
        """Move every item towards the queries whose nearest item it is.

        Args:
            queries (torch.Tensor): Unit vectors, shape ``(B, Q, C)``.
        """
        queries = queries.flatten(0, 1).to(self.items.dtype)  # (K, C)
        similarity = queries @ self.items.T  # (K, N)
        weights = similarity.softmax(dim=0)
        weights = weights / weights.amax(dim=0)  # v'_km: over its largest value
        nearest = nn.functional.one_hot(similarity.argmax(dim=1), len(self.items)).to(weights.dtype)  # (K, N)
        # A new tensor: the graph of the losses holds the old one.
        self.items = normalize(self.items + (weights * nearest).T @ queries, dim=1)

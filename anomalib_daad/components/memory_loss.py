# SPDX-License-Identifier: Apache-2.0

"""Losses on what a memory does: MemAE's entropy, MNAD's compactness and separateness, uniform use.

All four take the queries, the items and the weights of one read, and serve the block memory as well as those that they
were made for. MNAD's compare unit vectors, as its memory does.

References:
    MemAE, https://arxiv.org/abs/1904.02639.
    MNAD, https://arxiv.org/abs/2003.13228.
    [Re] MNAD, ML Reproducibility Challenge 2020: the additional supervision of its section 5, as an idea. Its code
        has another loss, which assigns pixel i to item i mod 10.

Example:
    >>> import torch
    >>> weights = torch.full((2, 4, 10), 0.1)
    >>> entropy(weights)
    tensor(2.3026)
    >>> uniform_use(weights)
    tensor(0.)
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.functional import normalize, triplet_margin_loss

from .block_memory import MemoryRead


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the weights of a query: MemAE's loss for sparse weights.

    Args:
        weights (torch.Tensor): Weights as used by the read, shape ``(B, Q, N)``.

    Returns:
        torch.Tensor: Scalar, in nats, at least 0.
    """
    return -(weights * (weights + 1e-12).log()).sum(dim=-1).mean()  # the gradient at 0 is finite, as MemAE's


def compactness(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of a query and the item nearest to it (MNAD).

    Args:
        queries (torch.Tensor): Queries, shape ``(B, Q, D)``.
        items (torch.Tensor): Items, shape ``(N, D)``.

    Returns:
        torch.Tensor: Scalar, the mean over the D elements too, as MNAD's code has it.
    """
    queries, items = normalize(queries.flatten(0, 1), dim=-1), normalize(items, dim=-1)
    nearest = (queries @ items.T).argmax(dim=-1)
    return (queries - items[nearest]).square().mean()


def separateness(queries: torch.Tensor, items: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """Triplet loss of a query, the item nearest to it and the second nearest (MNAD).

    Args:
        queries (torch.Tensor): Queries, shape ``(B, Q, D)``.
        items (torch.Tensor): Items, shape ``(N, D)``, with N at least 2.
        margin (float): Margin. Defaults to ``1.0``.

    Returns:
        torch.Tensor: Scalar.

    Raises:
        ValueError: If there is but one item.
    """
    if len(items) < 2:
        msg = "separateness needs a second nearest item: set num_items to at least 2."
        raise ValueError(msg)
    queries, items = normalize(queries.flatten(0, 1), dim=-1), normalize(items, dim=-1)
    nearest, second = (queries @ items.T).topk(2, dim=-1).indices.unbind(dim=-1)
    return triplet_margin_loss(queries, items[nearest], items[second], margin=margin)


def uniform_use(weights: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the mean weight of each item and ``1/N``: all items are to be used alike.

    Args:
        weights (torch.Tensor): Weights, shape ``(B, Q, N)``.

    Returns:
        torch.Tensor: Scalar.
    """
    weights = weights.flatten(0, 1)
    return (weights.mean(dim=0) - 1 / weights.shape[1]).square().mean()


class MemoryLoss(nn.Module):
    """Weighted sum of the four losses over all memories.

    Args:
        weights (dict[str, float] | None): Weight of each term, those of ``entropy``, ``compactness``,
            ``separateness`` and ``uniform_use`` that are to be used. MemAE has ``{"entropy": 2e-4}``, MNAD
            ``{"compactness": 0.01, "separateness": 0.01}``. Defaults to ``None``, no loss.

    Raises:
        ValueError: If a term is unknown or a weight negative.
    """

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not weights.keys() <= _TERMS.keys() or min(weights.values(), default=0) < 0:
            msg = f"memory_losses must give weights of at least 0 to some of {', '.join(_TERMS)}, got {weights}."
            raise ValueError(msg)
        self.weights = {term: weight for term, weight in weights.items() if weight}

    def forward(self, reads: Iterable[MemoryRead]) -> torch.Tensor | float:
        """Add up the losses of all reads.

        Args:
            reads (Iterable[MemoryRead]): What each memory did.

        Returns:
            torch.Tensor | float: Scalar; 0.0 without terms or memories.
        """
        total: torch.Tensor | float = 0.0
        for read in reads:
            for term, weight in self.weights.items():
                total = total + weight * _TERMS[term](read)
        return total


_TERMS: dict[str, Callable[[MemoryRead], torch.Tensor]] = {
    "entropy": lambda read: entropy(read.weights),
    "compactness": lambda read: compactness(read.queries, read.items),
    "separateness": lambda read: separateness(read.queries, read.items),
    "uniform_use": lambda read: uniform_use(read.weights),
}

# SPDX-License-Identifier: Apache-2.0

"""Block-wise memory: the divide-and-assemble read of DAAD (section 3.1.2).

A feature map is divided into a grid of blocks; each block is a query that is replaced by a sparse, attention-weighted
sum of learned memory items; the blocks are assembled into a feature map again. Coarse blocks reconstruct little,
fine blocks reconstruct everything, defects included: the division rates modulate between the two.

Paper:
    Title: Divide-and-Assemble: Learning Block-wise Memory for Unsupervised Anomaly Detection
    URL: https://arxiv.org/abs/2107.13118

Example:
    >>> import torch
    >>> memory = BlockMemory(feature_shape=(64, 32, 32), division_rates=(8, 8, 1), num_items=500)
    >>> memory(torch.randn(2, 64, 32, 32)).shape
    torch.Size([2, 64, 32, 32])
    >>> memory.address(torch.randn(2, 64, 32, 32)).shape
    torch.Size([2, 64, 500])
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

MemoryInit = Literal["normal", "uniform"]
Similarity = Literal["cosine", "inner_product"]
MIN_TEMPERATURE = 0.02  # exp(1 / 0.02) still fits float32


class BlockMemory(nn.Module):
    """Memory bank addressed by the blocks of a feature map.

    Blocks are numbered row by row, then column by column, then by channel group. A block is flattened in the order
    channel, row, column.

    Args:
        feature_shape (tuple[int, int, int]): Channels, height and width ``(C, H, W)`` of the feature map.
        division_rates (tuple[int, int, int]): Divisions ``(r_h, r_w, r_c)`` along height, width and channels. They
            must divide ``H``, ``W`` and ``C``.
        num_items (int): Number of memory items ``N``, at least 1.
        temperature (float): Divides the similarities before the softmax; below 1 it sharpens the read, from
            0.02 up. The paper has none, which is ``1.0``. Defaults to ``1.0``.
        renormalize (bool): Scale the weights that survive the drop at ``1/N`` to a sum of one. The paper does not
            say so, and eq. 2 taken literally does not. Defaults to ``False``.
        drop_below (float): Weights below ``drop_below / N`` are dropped; 1 is the paper's, 0 keeps all. MemAE's paper
            has 1 to 3, its code 5. Defaults to ``1.0``.
        drop_width (float): Makes the drop at ``1/N``, a step, a ramp over this range of ``log w`` below it, so that
            backends whose arithmetic differs in the last digits read alike. Defaults to ``0.0``, the paper's step.
        init (str): Initial items: ``"normal"`` draws from N(0, 1); ``"uniform"`` from U(-1/sqrt(D), 1/sqrt(D)), as
            MemAE does. Defaults to ``"normal"``.
        similarity (str): What the softmax is taken of: ``"cosine"`` of query and item (eq. 1), or their
            ``"inner_product"``, as in MemAE's code. With the cosine at temperature 1 no weight exceeds ``7.4 / N``;
            with the inner product a long query can choose a single item. Defaults to ``"cosine"``.

    Attributes:
        items (nn.Parameter): Memory items, shape ``(N, D)`` with ``D = C * H * W / (r_h * r_w * r_c)``.

    Raises:
        ValueError: If the rates do not divide the feature shape, or an argument is out of range.
    """

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        division_rates: tuple[int, int, int],
        num_items: int,
        temperature: float = 1.0,
        renormalize: bool = False,
        drop_width: float = 0.0,
        init: MemoryInit = "normal",
        drop_below: float = 1.0,
        similarity: Similarity = "cosine",
    ) -> None:
        super().__init__()
        channels, height, width = feature_shape
        r_h, r_w, r_c = division_rates
        if min(division_rates) < 1 or height % r_h or width % r_w or channels % r_c:
            msg = (
                f"division_rates (r_h, r_w, r_c) = {tuple(division_rates)} must be at least 1 and divide the height, "
                f"width and channels of the feature map, got height {height}, width {width}, channels {channels}."
            )
            raise ValueError(msg)
        if num_items < 1:
            msg = f"num_items must be at least 1, got {num_items}."
            raise ValueError(msg)
        if temperature < MIN_TEMPERATURE or min(drop_width, drop_below) < 0:
            msg = f"temperature must be at least {MIN_TEMPERATURE}, drop_width and drop_below not negative, "
            msg += f"got {temperature}, {drop_width} and {drop_below}."
            raise ValueError(msg)
        if init not in get_args(MemoryInit):
            msg = f"init must be one of {get_args(MemoryInit)}, got {init!r}."
            raise ValueError(msg)
        if similarity not in get_args(Similarity):
            msg = f"similarity must be one of {get_args(Similarity)}, got {similarity!r}."
            raise ValueError(msg)

        self.feature_shape = (channels, height, width)
        self.division_rates = (r_h, r_w, r_c)
        self.block_shape = (channels // r_c, height // r_h, width // r_w)
        self.temperature = temperature
        self.renormalize = renormalize
        self.drop_width = drop_width
        self.drop_below = drop_below
        self.similarity = similarity
        self.items = nn.Parameter(torch.empty(num_items, math.prod(self.block_shape)))
        self._cached_norms: _CachedNorms | None = None
        self._initialize_items(init)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what can be computed anew out of copies and pickles."""
        return {**self.__dict__, "_cached_norms": None}

    def _initialize_items(self, init: MemoryInit) -> None:
        if init == "normal":
            nn.init.normal_(self.items)
        else:
            bound = self.items.shape[1] ** -0.5
            nn.init.uniform_(self.items, -bound, bound)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace every block by what the memory holds of it.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Assembled feature map, shape ``(B, C, H, W)``.

        Raises:
            ValueError: If the feature map does not have ``feature_shape``.
        """
        return self.read(features).features

    def read(self, features: torch.Tensor) -> "MemoryRead":
        """Replace every block by what the memory holds of it, and tell how.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            MemoryRead: The assembled feature map, the queries, the items and the weights.

        Raises:
            ValueError: If the feature map does not have ``feature_shape``.
        """
        queries = self.divide(features)  # (B, Q, D)
        weights = self._weigh(queries)  # (B, Q, N)
        read = self.assemble(weights.to(self.items.dtype) @ self.items)  # (B, Q, D) -> (B, C, H, W)
        return MemoryRead(read, queries, self.items, weights, self.division_rates)

    def address(self, features: torch.Tensor) -> torch.Tensor:
        """Weigh the memory items for every block (eq. 1), with those below ``drop_below / N`` dropped to zero.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Weights in [0, 1] as used by the read, shape ``(B, Q, N)``, at least float32. They sum to
            one over the items only with ``renormalize``.

        Raises:
            ValueError: If the feature map does not have ``feature_shape``.
        """
        return self._weigh(self.divide(features))

    def _weigh(self, queries: torch.Tensor) -> torch.Tensor:
        if self.similarity == "cosine":
            similarity = self._cosine_similarity(queries) / self.temperature  # (B, Q, N)
        else:
            similarity = self._products(queries) / self.temperature
            similarity = similarity - similarity.detach().amax(dim=-1, keepdim=True)  # unbounded: exp would overflow
        # log(w N) without the large terms of a log-softmax: what is compared with 0 stays exact in half precision.
        excess = similarity - similarity.exp().mean(dim=-1, keepdim=True).log()
        rounding = 8 * torch.finfo(excess.dtype).eps * max(1.0, 1 / self.temperature)  # a weight of 1/N must not drop
        weights = excess.exp() / self.items.shape[0]
        if self.drop_below:
            above = excess.detach() + (rounding - math.log(self.drop_below))
            ramp = (1 + above / self.drop_width).clamp(0, 1) if self.drop_width else (above >= 0).to(above.dtype)
            weights = weights * ramp
        if self.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
            if self.drop_below > 1:  # all may drop: what is left of the last one goes down the ramp, too
                weights = weights * ramp.amax(dim=-1, keepdim=True)
        return weights

    def divide(self, features: torch.Tensor) -> torch.Tensor:
        """Divide a feature map into flattened blocks.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Queries, shape ``(B, Q, D)`` with ``Q = r_h * r_w * r_c``.

        Raises:
            ValueError: If the feature map does not have ``feature_shape``.
        """
        if tuple(features.shape[1:]) != self.feature_shape:
            msg = f"Expected features of shape (B, C, H, W) with (C, H, W) = {self.feature_shape}, got {features.shape}"
            raise ValueError(msg)
        r_h, r_w, r_c = self.division_rates
        c, h, w = self.block_shape
        blocks = features.reshape(-1, r_c, c, r_h, h, r_w, w).permute(0, 3, 5, 1, 2, 4, 6)
        return blocks.reshape(-1, r_h * r_w * r_c, c * h * w)

    def assemble(self, blocks: torch.Tensor) -> torch.Tensor:
        """Assemble flattened blocks into a feature map: the inverse of :meth:`divide`.

        Args:
            blocks (torch.Tensor): Blocks, shape ``(B, Q, D)``.

        Returns:
            torch.Tensor: Feature map, shape ``(B, C, H, W)``, in channels_last memory.
        """
        r_h, r_w, r_c = self.division_rates
        c, h, w = self.block_shape
        grid = blocks.reshape(-1, r_h, r_w, r_c, c, h, w).permute(0, 1, 5, 2, 6, 3, 4)
        return grid.reshape(-1, r_h * h, r_w * w, r_c * c).permute(0, 3, 1, 2)

    def _cosine_similarity(self, queries: torch.Tensor) -> torch.Tensor:
        """Cosine of every query with every item, 0 for a zero vector: ``(B, Q, D) -> (B, Q, N)``."""
        # Scaling the products in place of the items spares passes over all of them; products with queries that are not
        # scaled would overflow float16.
        units = queries * _inverse_norm(queries)
        if self.temperature < 1:
            return self._products(units) * self._inverse_item_norms()
        products = units.to(self.items.dtype) @ self.items.T
        return products.to(torch.promote_types(products.dtype, torch.float32)) * self._inverse_item_norms()

    def _products(self, queries: torch.Tensor) -> torch.Tensor:
        """Inner product of every query with every item, in at least float32: ``(B, Q, D) -> (B, Q, N)``."""
        # In half precision what reaches 20 before the softmax would be a tenth off, and its exponential as well.
        dtype = torch.promote_types(self.items.dtype, torch.float32)
        device = queries.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return queries.to(dtype) @ self.items.to(dtype).T
        return queries.to(dtype) @ self.items.to(dtype).T

    def _inverse_item_norms(self) -> torch.Tensor:
        """``1 / ||m_i||``, shape ``(N,)``; at inference computed once for each state of the items."""
        items = self.items
        if torch.compiler.is_compiling():
            return _inverse_norm(items).squeeze(-1)
        if torch.is_grad_enabled():
            self._cached_norms = None  # an optimizer may follow, and fused ones do not advance the version
            return _inverse_norm(items).squeeze(-1)
        cached = self._cached_norms
        state = (items._version, items.device, items.dtype)  # noqa: SLF001
        if cached is None or cached.items is not items or cached.state != state:
            cached = self._cached_norms = _CachedNorms(items, state, _inverse_norm(items).squeeze(-1))
        return cached.inverse_norms


class MemoryRead(NamedTuple):
    """What a memory made of a feature map.

    Attributes:
        features (torch.Tensor): What the decoder sees, shape ``(B, C, H, W)``.
        queries (torch.Tensor): Blocks that addressed the memory, shape ``(B, Q, D)``.
        items (torch.Tensor): Items, shape ``(N, D)``.
        weights (torch.Tensor): Weights of the items, shape ``(B, Q, N)``.
        grid (tuple[int, int, int]): Rows, columns and channel groups of the blocks, Q in all.
    """

    features: torch.Tensor
    queries: torch.Tensor
    items: torch.Tensor
    weights: torch.Tensor
    grid: tuple[int, int, int]


class _CachedNorms(NamedTuple):
    """Inverse norms of the items and the state of the items that they belong to."""

    items: torch.Tensor
    state: tuple[int, torch.device, torch.dtype]
    inverse_norms: torch.Tensor


class _RowNorm(torch.autograd.Function):
    """Euclidean norm over the last dimension (kept), in at least float32, whose gradient is a single product."""

    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor) -> torch.Tensor:
        norm = _row_norm(vectors)
        ctx.save_for_backward(vectors, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        vectors, norm = ctx.saved_tensors
        return vectors * torch.where(norm == 0, norm, gradient / norm).to(vectors.dtype)


def _row_norm(vectors: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=dtype)


def _inverse_norm(vectors: torch.Tensor) -> torch.Tensor:
    """``1 / ||v||`` over the last dimension (kept), 0 for a zero vector, in at least float32."""
    norm = _row_norm(vectors) if torch.compiler.is_compiling() else _RowNorm.apply(vectors)
    is_zero = norm == 0
    return torch.where(is_zero, torch.zeros_like(norm), 1 / torch.where(is_zero, torch.ones_like(norm), norm))

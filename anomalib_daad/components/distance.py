# SPDX-License-Identifier: Apache-2.0

"""The norm of DAAD's equations.

Example:
    >>> import torch
    >>> sample_distance(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
    tensor([13.8564, 13.8564])
"""

import torch


def sample_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of the samples of two batches: the ``|| . ||_2`` of eq. 4 and 6.

    Args:
        first (torch.Tensor): Batch of any shape ``(B, ..., D)``.
        second (torch.Tensor): Batch of the same shape.

    Returns:
        torch.Tensor: Distance of each sample, shape ``(B,)``, at least 0, in at least float32.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    # Row by row first: runtimes that add up naively lose digits over a whole image.
    rows = torch.linalg.vector_norm(first.to(dtype) - second.to(dtype), dim=-1).reshape(first.shape[0], -1)
    return torch.linalg.vector_norm(rows, dim=1)

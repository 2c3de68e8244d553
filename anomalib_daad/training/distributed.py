# SPDX-License-Identifier: Apache-2.0

"""What the processes of a distributed training share: gradients, batch-norm statistics and scores.

Lightning's DDP averages gradients during a backward pass that reaches every parameter. DAAD+ has two passes, each of
which reaches one network, so that gradients are averaged here after each.
"""

from collections.abc import Sequence

import torch
from torch import distributed
from torchmetrics.utilities.distributed import gather_all_tensors


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def gather(scores: torch.Tensor) -> torch.Tensor:
    """Concatenate the scores, or images, of all processes.

    Args:
        scores (torch.Tensor): Those of this process, shape ``(n, ...)``; n may differ between processes.

    Returns:
        torch.Tensor: Scores of all processes in the order of their ranks; ``scores`` where there is one process.
    """
    return torch.cat(gather_all_tensors(scores)) if _is_distributed() else scores


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their average over all processes; nothing happens where there is one process.

    Args:
        tensors (Sequence[torch.Tensor]): Floating-point tensors, of the same shapes in every process.
    """
    if not _is_distributed():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))

# SPDX-License-Identifier: Apache-2.0

"""What the machine can do at best, and what a model asks of it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

MATRIX_OPERATIONS = {"convolution", "mm", "bmm", "addmm", "baddbmm"}


def _fastest(call: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def matrix_multiply_rate(dtype: torch.dtype, device: str) -> float:
    """Measure the rate of large matrix products.

    Args:
        dtype (torch.dtype): Type of the operands.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        float: Operations a second, two for each multiply-add: the best of several sizes and runs.
    """
    rates = []
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        rates.append(2 * size**3 / _fastest(partial(torch.matmul, left, right), 8))
    return max(rates)


def copy_bandwidth(device: str) -> float:
    """Measure the bandwidth of a large copy.

    Args:
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        float: Bytes read and written a second, the best of several runs.
    """
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), 8)


class _CountBytes(TorchDispatchMode):
    """Adds up operands and results of the matrix operations; what lies between them can be fused away."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in MATRIX_OPERATIONS:
            tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
            self.total += sum(tensor.nbytes for tensor in tensors)
        return result


def count_work(call: Callable[[], object]) -> tuple[int, int]:
    """Count the operations and the least traffic of a call.

    Args:
        call (Callable[[], object]): What to count.

    Returns:
        tuple[int, int]: Operations of the convolutions and matrix products, two for each multiply-add, and the bytes
        of their operands and results.
    """
    operations, traffic = FlopCounterMode(display=False), _CountBytes()
    with torch.no_grad(), operations:
        call()
    with torch.no_grad(), traffic:
        call()
    return operations.get_total_flops(), traffic.total

# SPDX-License-Identifier: Apache-2.0

"""Precision: where a processor computes in bfloat16, and where bfloat16 is too coarse.

Example:
    >>> computes_bfloat16("cuda")
    True
"""

import torch


def computes_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device computes in bfloat16.

    Without AVX-512 or the like PyTorch emulates it number by number: on an x86 processor with AVX2 alone a training
    step took 21 times as long in bfloat16 as in float32.

    Args:
        device (torch.device | str): Device; only CPUs are asked.

    Returns:
        bool: False where bfloat16 is far slower than float32.
    """
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001


def full_precision(like: torch.Tensor) -> torch.autocast:
    """Context without autocast, for what bfloat16 is too coarse for, such as scores with ranges of the float32 export.

    Args:
        like (torch.Tensor): Tensor on the device that the context is for.

    Returns:
        torch.autocast: Context manager.
    """
    return torch.autocast(like.device.type, enabled=False)

# SPDX-License-Identifier: Apache-2.0

"""Interleaved timing: every round times every candidate once, so that a slow spell of the machine hits all alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from rich.progress import Progress

ROUNDS, MAX_ROUNDS = 3, 1000


def interleave(calls: Mapping[str, Callable[[], object]], seconds: float, title: str) -> dict[str, np.ndarray]:
    """Time calls in turn.

    Args:
        calls (Mapping[str, Callable[[], object]]): Candidates.
        seconds (float): Time for all rounds together; there are at least ``ROUNDS`` and at most ``MAX_ROUNDS``.
        title (str): What the progress bar says.

    Returns:
        dict[str, np.ndarray]: Seconds of each candidate in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # allocations, autotuning, caches
    start = time.perf_counter()
    with Progress(transient=True) as progress:
        task = progress.add_task(title, total=seconds)
        for number in range(MAX_ROUNDS):
            elapsed = time.perf_counter() - start
            if number >= ROUNDS and elapsed >= seconds:
                break
            for name, call in calls.items():
                begin = time.perf_counter()
                call()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - begin)
            progress.update(task, completed=min(elapsed, seconds))
    return {name: np.array(values) for name, values in times.items()}


def summarize(times: np.ndarray) -> dict[str, float]:
    """Median and quartiles in milliseconds.

    Args:
        times (np.ndarray): Seconds, shape ``(rounds,)``.

    Returns:
        dict[str, float]: ``ms`` (median), ``ms_q25``, ``ms_q75`` and ``rounds``.
    """
    low, median, high = np.quantile(times * 1e3, (0.25, 0.5, 0.75))
    return {"ms": round(median, 3), "ms_q25": round(low, 3), "ms_q75": round(high, 3), "rounds": len(times)}

# SPDX-License-Identifier: Apache-2.0

"""How many parts a model judges rightly, in words that anyone on the floor understands."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Tally(NamedTuple):
    """Parts that were judged.

    Attributes:
        found (int): Defective parts that were rejected.
        defective (int): All defective parts.
        rejected (int): Good parts that were rejected.
        good (int): All good parts.

    Example:
        >>> print(Tally(19, 20, 1, 50))
        finds 19 of 20 defects and rejects 1 of 50 good parts
    """

    found: int
    defective: int
    rejected: int
    good: int

    def __str__(self) -> str:
        """Say it: the end of a sentence that begins with the model's name."""
        told = [f"finds {self.found} of {self.defective} defects"] if self.defective else []
        told += [f"rejects {self.rejected} of {self.good} good parts"] if self.good else []
        return " and ".join(told)


def count(labels: np.ndarray, rejected: np.ndarray) -> Tally:
    """Count parts.

    Args:
        labels (np.ndarray): Whether each is defective, boolean, shape ``(n,)``.
        rejected (np.ndarray): Whether each was called defective, boolean, shape ``(n,)``.

    Returns:
        Tally: Their numbers.
    """
    return Tally(
        int((labels & rejected).sum()), int(labels.sum()), int((~labels & rejected).sum()), int((~labels).sum())
    )


def add(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up.

    Args:
        tallies (Iterable[Tally]): Tallies.

    Returns:
        Tally: Their sum.
    """
    return Tally(*(sum(numbers) for numbers in zip((0, 0, 0, 0), *tallies, strict=True)))


def name_verdict(is_rejected: bool, is_defective: bool | None) -> str:
    """Name what became of a part.

    Args:
        is_rejected (bool): Whether the model calls it defective.
        is_defective (bool | None): Whether it is; None where nobody says.

    Returns:
        str: The verdict, and where the truth is known whether it is right.
    """
    if is_defective is None:
        return "defective" if is_rejected else "good"
    if is_rejected:
        return "found" if is_defective else "false alarm"
    return "missed" if is_defective else "passed"

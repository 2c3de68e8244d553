# SPDX-License-Identifier: Apache-2.0

"""What a calibration found. Without PyTorch, as all that calibrates exports."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """What a calibration found.

    Attributes:
        before (float | None): The threshold that was, of scores as the network gives them; None without one.
        after (float): The threshold that is; of scores by other statistics where those were learnt anew.
        rejected (int | None): Good images that the model as it was rejects; None where it had no threshold.
        judged (int): Good images that the new threshold is from.
        relearnt (int): Good images that statistics and ranges are from; 0 where those are as they were.
    """

    before: float | None
    after: float
    rejected: int | None
    judged: int
    relearnt: int = 0

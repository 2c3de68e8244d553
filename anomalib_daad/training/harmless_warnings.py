# SPDX-License-Identifier: Apache-2.0

"""Warnings of other libraries that trainings with these models leave out, or show once a stage; others are shown."""

import warnings
from typing import Literal, NamedTuple


class Rule(NamedTuple):
    """What becomes of a warning.

    Attributes:
        action (Literal["ignore", "once"]): Leave it out, or show it once until the next stage.
        message (str): Its beginning, a pattern.
        category (type[Warning]): Its kind.
        module (str): Where it comes from, a pattern.
    """

    action: Literal["ignore", "once"]
    message: str
    category: type[Warning]
    module: str


RULES = (
    # Lightning asks PyTorch's trees in a way that PyTorch will drop: nobody who trains can do a thing.
    Rule(
        "ignore",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        FutureWarning,
        r"lightning\.pytorch\.utilities\._pytree",
    ),
    # anomalib starts eight workers by default, also on two processors, and PyTorch says so for each of its loaders.
    Rule("once", r"This DataLoader will create \d+ worker processes", UserWarning, r"torch\.utils\.data\.dataloader"),
)


def leave_out_harmless_warnings() -> None:
    """Follow the rules from now on; again is harmless."""
    for rule in RULES:
        warnings.filterwarnings(*rule)

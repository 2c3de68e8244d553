# SPDX-License-Identifier: Apache-2.0

"""Warnings of other libraries about each other, in trainings of these models: nobody who trains can do a thing."""

import warnings

# Message, category and module of each; anything else is shown.
HARMLESS: tuple[tuple[str, type[Warning], str], ...] = (
    # Lightning asks PyTorch's trees in a way that PyTorch will drop.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning, r"lightning\.pytorch\.utilities\._pytree"),
)


def leave_out_harmless_warnings() -> None:
    """Show them no more; again is harmless."""
    for message, category, module in HARMLESS:
        warnings.filterwarnings("ignore", message, category, module)

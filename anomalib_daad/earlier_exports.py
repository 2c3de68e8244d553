# SPDX-License-Identifier: Apache-2.0

"""Where ``.pt`` exports of earlier versions look for their model: they are pickles, which name modules that are gone.

Without this Python would say no more than that there is no such module.
"""

import sys
from types import ModuleType
from typing import Any

MODULES = {"lightning_model": "Daad", "mnad": "Mnad"}  # and what they held


class _Gone(ModuleType):
    """A module that refuses its model; it has nothing else, as tools that look through all modules expect."""

    def __getattr__(self, name: str) -> Any:
        if name not in MODULES.values():
            raise AttributeError(name)
        msg = (
            f"The file was exported by an earlier version of anomalib-daad, whose {name} was built otherwise: train "
            "the model again and export it."
        )
        raise ImportError(msg)


def refuse_earlier_exports() -> None:
    """Have pickles of earlier versions refused in one sentence."""
    package = __name__.partition(".")[0]
    for name in MODULES:
        sys.modules.setdefault(f"{package}.{name}", _Gone(f"{package}.{name}"))

# SPDX-License-Identifier: Apache-2.0

"""``anomalib-daad``: the plugin's own commands. What anomalib does, ``anomalib`` does."""

import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from .inspection.inspect_checkpoint import inspect
from .reproduce.command import reproduce
from .speed.benchmark import speed

POSITIONAL: dict[str, dict[str, Any]] = {
    "checkpoints": {
        "nargs": "+",
        "type": Path,
        "metavar": "CHECKPOINT",
        "help": "Lightning checkpoints of Daad models; the first is inspected, all are compared.",
    },
    "table": {"metavar": "TABLE", "help": "table2, table3, table4 or table5."},
}


class CommandParser(ArgumentParser):
    """Takes a command's main argument by its place; lists one after the other, not in brackets."""

    def add_function_arguments(self, function: Callable, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a command.

        Args:
            function (Callable): The command.
            args: As jsonargparse's.
            kwargs: As jsonargparse's.

        Returns:
            list[str]: Names of the arguments.
        """
        first = next(iter(signature(function).parameters))
        if first not in POSITIONAL:
            return super().add_function_arguments(function, *args, **kwargs)
        self.add_argument(first, **POSITIONAL[first])
        return super().add_function_arguments(function, *args, **{**kwargs, "skip": {first}})


def main() -> None:
    """Run a command; bad input is one line on standard error and exit status 2."""
    commands: dict[str, Any] = {"inspect": inspect, "reproduce": reproduce, "speed": speed}
    try:
        auto_cli(commands, prog="anomalib-daad", description=__doc__, as_positional=False, parser_class=CommandParser)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"anomalib-daad: error: {error}\n")
        sys.exit(2)

# SPDX-License-Identifier: Apache-2.0

"""``anomalib-daad``: the plugin's own commands. What anomalib does, ``anomalib`` does."""

import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from .inspection.inspect_checkpoint import inspect
from .speed.benchmark import speed


class CommandParser(ArgumentParser):
    """Takes a command's ``checkpoints`` one after the other, where jsonargparse wants a list in brackets."""

    def add_function_arguments(self, function: Callable, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a command.

        Args:
            function (Callable): The command.
            args: As jsonargparse's.
            kwargs: As jsonargparse's.

        Returns:
            list[str]: Names of the arguments.
        """
        if "checkpoints" not in signature(function).parameters:
            return super().add_function_arguments(function, *args, **kwargs)
        text = "Lightning checkpoints of Daad models; the first is inspected, all are compared."
        self.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help=text)
        return super().add_function_arguments(function, *args, **{**kwargs, "skip": {"checkpoints"}})


def main() -> None:
    """Run a command; bad input is one line on standard error and exit status 2."""
    commands: dict[str, Any] = {"inspect": inspect, "speed": speed}
    try:
        auto_cli(commands, prog="anomalib-daad", description=__doc__, as_positional=False, parser_class=CommandParser)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"anomalib-daad: error: {error}\n")
        sys.exit(2)

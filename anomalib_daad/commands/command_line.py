# SPDX-License-Identifier: Apache-2.0

"""``anomalib-daad``: the plugin's own commands. What anomalib does, ``anomalib`` does."""

import json
import sys
from collections.abc import Callable
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from anomalib_daad import __version__
from anomalib_daad.commands.calibrate.calibrate_model import calibrate
from anomalib_daad.commands.compare.compare_models import compare
from anomalib_daad.commands.configurations import config
from anomalib_daad.commands.inspect.inspect_checkpoint import inspect
from anomalib_daad.commands.judge.judge_images import judge
from anomalib_daad.commands.reproduce.command import reproduce
from anomalib_daad.commands.speed.benchmark import speed
from anomalib_daad.commands.update.update_model import update

POSITIONAL: dict[str, dict[str, Any]] = {
    "checkpoint": {"type": Path, "metavar": "CHECKPOINT", "help": "Checkpoint or safetensors file."},
    "checkpoints": {
        "nargs": "+",
        "type": Path,
        "metavar": "CHECKPOINT",
        "help": "Lightning checkpoints of models of this package; the first is inspected, all are compared.",
    },
    "model": {"type": Path, "metavar": "MODEL", "help": "Checkpoint, safetensors file or export."},
    "name": {"nargs": "?", "metavar": "NAME", "help": "Configuration; all are listed without."},
    "table": {"metavar": "TABLE", "help": "table2, table3, table4 or table5."},
    "images": {"type": Path, "metavar": "IMAGES", "help": "Image, or a folder with all its subfolders."},
}


SHORT = {"calibrate", "update"}  # commands that keep nothing of what they have done, until they are done


class CommandParser(ArgumentParser):
    """Takes a command's first arguments by their places, and its values one after the other."""

    def add_function_arguments(self, function: Callable, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a command.

        Args:
            function (Callable): The command.
            args: As jsonargparse's.
            kwargs: As jsonargparse's.

        Returns:
            list[str]: Names of the arguments.
        """
        places = list(takewhile(POSITIONAL.__contains__, signature(function).parameters))
        if not places:
            return super().add_function_arguments(function, *args, **kwargs)
        for name in places:
            self.add_argument(name, **POSITIONAL[name])
        return super().add_function_arguments(function, *args, **{**kwargs, "skip": set(places)})


def plain_options(arguments: list[str], command: Callable) -> list[str]:
    """Let options be written ``--seeds 0 1``, ``--image-size 128``, ``--overwrite`` and ``--no-pretrained``.

    jsonargparse's own forms are ``--seeds "[0, 1]"``, ``--image_size 128``, ``--overwrite true`` and
    ``--pretrained false``.

    Args:
        arguments (list[str]): What stands after the command's name.
        command (Callable): The command.

    Returns:
        list[str]: The same in jsonargparse's form.
    """
    parameters = signature(command).parameters
    lists = {f"--{name}": str(it.annotation) for name, it in parameters.items() if "list[" in str(it.annotation)}
    switches = {f"--{name}" for name, it in parameters.items() if it.annotation is bool}
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            option = option[:2] + option[2:].replace("-", "_")
            switch = option.removeprefix("--no_")
            is_off = switch != option and switch in parameters
            word = f"--{switch}=false" if is_off else f"{option}{equals}{value}"
        if word in switches and rest[:1] not in (["true"], ["false"]):
            word = f"{word}=true"
        plain.append(word)
        if plain[-1] not in lists:
            continue
        count = next((index for index, value in enumerate(rest) if value.startswith("--")), len(rest))
        values, rest = rest[:count], rest[count:]
        if values and not values[0].startswith("["):
            values = [f"[{', '.join(value if 'list[int]' in lists[word] else json.dumps(value) for value in values)}]"]
        plain += values
    return plain


def main() -> None:
    """Run a command; bad input is one line on standard error and exit status 2."""
    commands: dict[str, Any] = {
        "judge": judge,
        "calibrate": calibrate,
        "update": update,
        "compare": compare,
        "configuration": config,
        "inspect": inspect,
        "reproduce": reproduce,
        "speed": speed,
    }
    name, *rest = sys.argv[1:] or [""]
    name = "configuration" if name == "config" else name  # which is an option of jsonargparse's own
    if name == "--version":
        sys.stdout.write(f"anomalib-daad {__version__}\n")
        return
    arguments = [name, *plain_options(rest, commands[name])] if name in commands else None
    try:
        auto_cli(
            commands,
            args=arguments,
            prog="anomalib-daad",
            description=__doc__,
            as_positional=False,
            parser_class=CommandParser,
        )
    except KeyboardInterrupt:
        sys.stderr.write(
            f"anomalib-daad: interrupted; the same command {'starts anew' if name in SHORT else 'goes on'}\n"
        )
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"anomalib-daad: error: {error}\n")
        sys.exit(2)

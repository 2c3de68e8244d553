# SPDX-License-Identifier: Apache-2.0

"""The last line of an ``anomalib`` command that fails, for the models of this package alone: what was wrong.

anomalib ends with a traceback of hundreds of lines, cut to the width of the terminal, or with its parser's list of all
that it tried. Both stay as they are; a sentence follows as the process ends. Nothing changes for other models.
"""

import atexit
import sys
from traceback import walk_tb
from types import TracebackType

from .error_message import one_sentence
from .misspelling import find_misspelling

COMMAND = "anomalib.cli.cli"  # is imported by anomalib's command line, and by nothing else
PACKAGE = f"{__name__.partition('.')[0]}."


def add_last_line() -> None:
    """Let this process end so, where it is anomalib's command line."""
    if COMMAND in sys.modules:
        atexit.register(say_last_line)


def say(sentence: str) -> None:
    """Write a last line.

    Args:
        sentence (str): One line.
    """
    sys.stderr.write(f"anomalib_daad: error: {sentence}\n")


def say_last_line() -> None:
    """Say the error that ended the process again, or name the model or argument that anomalib's parser did not know."""
    error = getattr(sys, "last_value", None)  # where Python has printed one
    if isinstance(error, Exception) and runs_our_model(error.__traceback__):
        say(one_sentence(error))
    elif error is None and (sentence := find_misspelling(sys.argv[1:])):
        say(sentence)


def runs_our_model(trace: TracebackType | None) -> bool:
    """Tell whether an error is one of an anomalib command with a model of this package.

    Args:
        trace (TracebackType | None): Where it was raised.

    Returns:
        bool: True if the command that is on the way has such a model.
    """
    for frame, _ in walk_tb(trace):
        command = frame.f_locals.get("self")
        if type(command).__module__ == COMMAND:
            options = getattr(command, "config", {}).get(getattr(command, "subcommand", ""), {})
            model = options.get("model") if hasattr(options, "get") else None
            return str(getattr(model, "class_path", "")).startswith(PACKAGE)
    return False

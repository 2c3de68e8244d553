# SPDX-License-Identifier: Apache-2.0

"""Models and arguments that a command line means but does not spell as they are.

Example:
    >>> find_misspelling(["train", "--model", "DAAD"])
    'There is no model DAAD: write --model Daad.'
    >>> find_misspelling(["train", "--model", "Daad", "--model.imagesize", "64"])
    'Daad has no argument imagesize: write --model.image_size.'
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from inspect import signature
from itertools import zip_longest
from typing import Any

from anomalib.models.components import AnomalibModule


def find_misspelling(arguments: Sequence[str]) -> str | None:
    """Find the first model or argument of a model of this package that is misspelt.

    Args:
        arguments (Sequence[str]): Command line, without the program.

    Returns:
        str | None: One sentence; None where nothing is, or where it is of another package's models.
    """
    options = dict(_options(arguments))
    module, _, name = options.get("--model", options.get("--model.class_path", "")).rpartition(".")
    known: dict[str, Any] = {it.__name__: it for it in _subclasses(AnomalibModule)}
    if name not in known:
        meant = None if module else _nearest(name, known)
        return f"There is no model {name}: write --model {meant}." if meant and _is_ours(known[meant]) else None
    if not _is_ours(known[name]):
        return None
    parameters = list(signature(known[name].__init__).parameters)[1:]
    for option in options:
        argument = option.removeprefix("--model.").removeprefix("init_args.").partition(".")[0]
        if option.startswith("--model.") and argument not in {*parameters, "class_path", "init_args", "help"}:
            meant = _nearest(argument, parameters)
            if moved := getattr(known[name], "moved_arguments", {}).get(argument):
                return f"{name} takes no {argument}: {moved}."
            what = f"write --model.{meant}" if meant else f"it has {', '.join(parameters)}"
            return f"{name} has no argument {argument}: {what}."
    return None


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and the words after them."""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            yield option, value if equals else following


def _subclasses(base: type) -> Iterator[type]:
    subclass: type
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _is_ours(model: type) -> bool:
    return model.__module__.partition(".")[0] == __name__.partition(".")[0]


def _nearest(word: str, words: Iterable[str]) -> str | None:
    """The word that is alike but for capitals and underscores, or nearly."""
    plain = {it.replace("_", "").lower(): it for it in words}
    found = get_close_matches(word.replace("_", "").replace("-", "").lower(), plain, n=1, cutoff=0.7)
    return plain[found[0]] if found else None

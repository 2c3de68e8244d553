# SPDX-License-Identifier: Apache-2.0

"""How far a command has come."""

from collections.abc import Generator, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def tracked(items: Iterable[Item], what: str) -> Generator[Item, None, None]:
    """Go through items beside a bar on the error stream, which is gone afterwards.

    Args:
        items (Iterable[Item]): Items, of a known number.
        what (str): What is done with them, such as ``"Judging"``.

    Yields:
        Item: Each of them.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, description=what)

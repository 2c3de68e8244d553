# SPDX-License-Identifier: Apache-2.0

"""The paper's tables: which cells they need, and how they read."""

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from ..output_folder import Row
from . import paper
from .cell import Cell
from .systems import adversarial


class Entry(NamedTuple):
    """One number of a table: a system and the score that it is judged by.

    Attributes:
        label (str): Name in the table.
        system (str): Name in ``SYSTEMS``.
        score (str): ``"R"``, ``"L"`` or ``"fused"``.
        paper (Callable[[list[str]], float | None]): The paper's mean over categories; None where it gives none for
            exactly these.
    """

    label: str
    system: str
    score: str
    paper: Callable[[Sequence[str]], float | None]


def _none(_: Sequence[str]) -> None:
    return None


def _table_3_mean(system: str) -> Callable[[Sequence[str]], float | None]:
    def over(categories: Sequence[str]) -> float | None:
        known = [paper.TABLE_3[category][system] for category in categories if category in paper.TABLE_3]
        return mean(known) if len(known) == len(categories) else None

    return over


def _constant(value: float) -> Callable[[Sequence[str]], float | None]:
    return lambda _: value


def entries(table: str, dataset: str, systems: Sequence[str] | None) -> list[Entry]:
    """List what a table compares.

    Args:
        table (str): ``"table2"`` to ``"table5"``.
        dataset (str): ``"mvtec"``, ``"mnist"`` or ``"cifar10"``.
        systems (Sequence[str] | None): Systems, of ``SYSTEMS``; None for the paper's.

    Returns:
        list[Entry]: Entries.
    """
    if table == "table4":
        chosen = [
            Entry(f"r = {rate}", "DAAD" if rate == 8 else f"DAAD, r = {rate}", "fused", _constant(value))
            for rate, value in paper.TABLE_4.items()
        ]
    elif table == "table5":
        chosen = []
        for (generator, adv, ali, score), value in paper.TABLE_5.items():
            system = adversarial(generator, ali) if adv else generator
            losses = ", ".join(name for name, used in (("L_adv", adv), ("L_ali", ali)) if used) or "no L_adv"
            chosen.append(Entry(f"{generator}, {losses}, {score}", system, score, _constant(value)))
    else:
        printed = paper.TABLE_2[dataset] if table == "table2" else paper.TABLE_3_MEANS
        means = {
            name: _constant(value) if table == "table2" else _table_3_mean(name) for name, value in printed.items()
        }
        default = ["DAAD+"] if table == "table2" else list(paper.TABLE_3_SYSTEMS)
        return [Entry(name, name, "fused", means.get(name, _none)) for name in systems or default]
    return chosen if systems is None else [entry for entry in chosen if entry.system in systems]


def to_markdown(
    table: str, chosen: Sequence[Entry], categories: Sequence[str], rows: Sequence[Row], failed: Sequence[Cell] = ()
) -> str:
    """Write a table beside the paper's.

    Args:
        table (str): ``"table2"`` to ``"table5"``.
        chosen (Sequence[Entry]): Its entries.
        categories (Sequence[str]): Its categories.
        rows (Sequence[Row]): Results, one row a cell.
        failed (Sequence[Cell]): Cells that failed.

    Returns:
        str: Markdown: image AUROC, mean and standard deviation over the seeds, the paper's number in brackets; a row
        of means over the categories with the difference to the paper's.
    """
    lines = [f"| | {' | '.join(entry.label for entry in chosen)} |", "|---" * (len(chosen) + 1) + "|"]
    for category in categories:
        cells = []
        for entry in chosen:
            printed = paper.TABLE_3.get(category, {}).get(entry.system) if table == "table3" else None
            is_failed = any((cell.system, cell.category) == (entry.system, category) for cell in failed)
            number = _number(_values(rows, entry, category), "failed" if is_failed else "not measured")
            cells.append(number + ("" if printed is None else f" ({printed:.3f})"))
        lines.append(f"| {category} | {' | '.join(cells)} |")
    is_whole = {*categories} in ({*paper.TABLE_3}, {*paper.MNIST}, {*paper.CIFAR10})
    means, papers, differences = [], [], []
    for entry in chosen:
        measured = [_values(rows, entry, category) for category in categories]
        ours = mean(map(mean, measured)) if all(measured) else None
        theirs = entry.paper(categories)
        means.append("" if ours is None else f"{ours:.3f}")
        papers.append("" if theirs is None else f"{theirs:.3f}")
        comparable = ours is not None and theirs is not None and (table == "table3" or is_whole)
        differences.append(f"{ours - theirs:+.3f}" if comparable else "")  # type: ignore[operator]
    for label, cells in (("mean", means), ("paper's mean", papers), ("difference", differences)):
        lines.append(f"| **{label}** | {' | '.join(cells)} |")
    if table != "table3" and not is_whole:
        lines += ["", "The paper gives only the mean over all of its categories, so there is no difference to give."]
    return "\n".join(lines) + "\n"


def _values(rows: Sequence[Row], entry: Entry, category: str) -> list[float]:
    found = [row for row in rows if row["system"] == entry.system and row["category"] == category]
    return [row[f"auroc_{entry.score}"] for row in found if row[f"auroc_{entry.score}"] is not None]


def _number(values: list[float], without: str) -> str:
    if not values:
        return without
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"

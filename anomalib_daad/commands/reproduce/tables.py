# SPDX-License-Identifier: Apache-2.0

"""The paper's tables: which cells they need, and how they read."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from anomalib_daad.commands.shared.output_folder import Row

from . import paper
from .cell import Cell
from .systems import adversarial


class Entry(NamedTuple):
    """One number of a table: a system and the score that it is judged by.

    Attributes:
        label (str): Name in the table.
        system (str): Name in ``SYSTEMS``.
        score (str): ``"R"``, ``"L"`` or ``"fused"``.
        paper (float | None): The paper's mean over all of its categories.
        per_category (bool): Whether the paper's Table 3 has its numbers category by category.
    """

    label: str
    system: str
    score: str
    paper: float | None = None
    per_category: bool = False


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
            Entry(f"r = {rate}", "DAAD" if rate == 8 else f"DAAD, r = {rate}", "fused", value, rate == 8)
            for rate, value in paper.TABLE_4.items()
        ]
    elif table == "table5":
        chosen = []
        for (generator, adv, ali, score), value in paper.TABLE_5.items():
            system = adversarial(generator, ali) if adv else generator
            losses = ", ".join(name for name, used in (("L_adv", adv), ("L_ali", ali)) if used) or "no L_adv"
            in_table_3 = value == paper.TABLE_3_MEANS.get(system)
            chosen.append(Entry(f"{generator}, {losses}, {score}", system, score, value, in_table_3))
    else:
        printed = paper.TABLE_2[dataset] if table == "table2" else paper.TABLE_3_MEANS
        default = ["DAAD+"] if table == "table2" else list(paper.TABLE_3_SYSTEMS)
        return [
            Entry(name, name, "fused", printed.get(name), table == "table3" and name in printed)
            for name in systems or default
        ]
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
        str: Markdown: image AUROC, mean and standard deviation over the seeds, the paper's number in brackets; then
        means over the categories, the paper's, and the difference.
    """
    lines = [f"| | {' | '.join(entry.label for entry in chosen)} |", "|---" * (len(chosen) + 1) + "|"]
    for category in categories:
        cells = []
        for entry in chosen:
            printed = _paper(entry, [category], is_whole=False)
            is_failed = any((cell.system, cell.category) == (entry.system, category) for cell in failed)
            number = _number(_values(rows, entry, category), "failed" if is_failed else "not measured")
            cells.append(number + ("" if printed is None else f" ({printed:.3f})"))
        lines.append(f"| {category} | {' | '.join(cells)} |")

    is_whole = {*categories} in ({*paper.TABLE_3}, {*paper.MNIST}, {*paper.CIFAR10})
    measured = [[_values(rows, entry, category) for category in categories] for entry in chosen]
    means = [mean(map(mean, values)) if all(values) else None for values in measured]
    papers = [_paper(entry, categories, is_whole) for entry in chosen]
    differences = [
        None if ours is None or theirs is None else ours - theirs for ours, theirs in zip(means, papers, strict=True)
    ]
    whole = [] if is_whole else [("paper's mean over all its categories", [entry.paper for entry in chosen], ".3f")]
    for label, values, form in (
        ("mean", means, ".3f"),
        ("paper's mean over the same", papers, ".3f"),
        ("difference", differences, "+.3f"),
        *whole,
    ):
        lines.append(f"| **{label}** | {' | '.join('' if it is None else format(it, form) for it in values)} |")
    if not is_whole and not all(entry.per_category for entry in chosen):
        source = "Table 3 alone gives categories" if table != "table2" else "the paper gives no classes"
        lines += ["", f"Where there is no difference, {source}."]
    return "\n".join(lines) + "\n"


def _paper(entry: Entry, categories: Sequence[str], is_whole: bool) -> float | None:
    if is_whole:
        return entry.paper
    if not entry.per_category or not paper.TABLE_3.keys() >= {*categories}:
        return None
    return mean(paper.TABLE_3[category][entry.system] for category in categories)


def _values(rows: Sequence[Row], entry: Entry, category: str) -> list[float]:
    found = [row for row in rows if row["system"] == entry.system and row["category"] == category]
    return [row[f"auroc_{entry.score}"] for row in found if row[f"auroc_{entry.score}"] is not None]


def _number(values: list[float], without: str) -> str:
    if not values:
        return without
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"

# SPDX-License-Identifier: Apache-2.0

"""The page of a comparison: the verdict, why, what the models get wrong, what was measured, and how."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context

from anomalib_daad.commands.shared.embedded_picture import side_of
from anomalib_daad.commands.shared.output_folder import Row
from anomalib_daad.commands.shared.picture import STYLE, show
from anomalib_daad.commands.shared.templates import render

from .advice import Advice, mean_aurocs, tally
from .charts import draw_cost, draw_histograms, draw_roc
from .cost import runtime
from .finding import Finding
from .gallery import VIEWS, WORST, make_galleries
from .progress import duration
from .tables import Table, accuracy_table, cost_table, kind_table
from .trained_models import load


class Comparison(NamedTuple):
    """What was compared.

    Attributes:
        by_data (Mapping[str, Sequence[Finding]]): Of each data set what the models found.
        by_model (Mapping[str, Sequence[Finding]]): Of each model that finished everywhere what it found.
        largest (str): Data set that costs were measured on.
        costs (Mapping[str, Row]): Of each model what it costs.
        advice (Advice): Which to pick.
        conditions (Mapping[str, str]): How it was measured.
        failed (Mapping[str, str]): Trials that failed, with the reason.
    """

    by_data: Mapping[str, Sequence[Finding]]
    by_model: Mapping[str, Sequence[Finding]]
    largest: str
    costs: Mapping[str, Row]
    advice: Advice
    conditions: Mapping[str, str]
    failed: Mapping[str, str]


def write_page(it: Comparison, output: Path) -> Path:
    """Write ``index.html``, and its charts into ``pictures``.

    Args:
        it (Comparison): What was compared.
        output (Path): Folder, which exists.

    Returns:
        Path: The page.
    """
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    side = side_of(2 * WORST * VIEWS * sum(map(len, it.by_data.values())))
    with rc_context(STYLE):
        charts = [show(draw_cost(mean_aurocs(it.by_model), it.costs), pictures)]
        for findings in it.by_data.values():
            charts += [show(draw(findings), pictures) for draw in (draw_roc, draw_histograms)]
    parts = [_part(name, findings, side) for name, findings in it.by_data.items()]
    names = dict.fromkeys(finding.name for findings in it.by_data.values() for finding in findings)
    page = output / "index.html"
    render(
        "comparison.html",
        page,
        title=f"Comparison on {', '.join(it.by_data)}: {', '.join(names)}",
        headline=it.advice.verdict,
        reasons=it.advice.sentences,
        failed=it.failed,
        standing=_standing(it),
        runner=runtime(it.costs)[1],
        choice=it.advice.choice,
        parts=parts,
        charts=charts,
        costs=cost_table(it.by_data[it.largest], it.costs),
        largest=it.largest,
        conditions=it.conditions,
    )
    return page


def _standing(it: Comparison) -> Table:
    """Each model in a row, by what it finds, what it rejects and how long it takes."""
    key, _ = runtime(it.costs)
    rows = []
    for name, findings in it.by_model.items():
        counted = tally(findings)
        found = "no threshold" if counted is None else f"{counted.found} of {counted.defective}"
        rejected = "no threshold" if counted is None else f"{counted.rejected} of {counted.good}"
        time = it.costs.get(name, {}).get(key)
        seconds = sum(finding.facts["train_seconds"] for finding in findings)
        rows.append([name, found, rejected, f"{time:.3g} ms" if time else "not measured", duration(seconds)])
    return Table(["Model", "Defects found", "Good parts rejected", "Time per image", "Training"], rows)


def _part(name: str, findings: Sequence[Finding], side: int) -> dict[str, Any]:
    """What the page shows of a data set."""
    return {
        "name": name,
        "galleries": make_galleries(findings, [load(finding) for finding in findings], side),
        "accuracy": accuracy_table(findings),
        "kinds": kind_table(findings) if findings[0].labels.any() else None,
    }

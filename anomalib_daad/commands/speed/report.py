# SPDX-License-Identifier: Apache-2.0

"""Tables and plots of the speed benchmark."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from anomalib_daad.commands.shared.output_folder import Row


def to_markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table.

    Args:
        rows (Sequence[Row]): Rows, at least one.

    Returns:
        str: The table, with a line break at its end.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(key) or "") for key in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot_growth(rows: Sequence[Row], path: Path) -> None:
    """Plot how the latency grows.

    Args:
        rows (Sequence[Row]): Rows of :func:`inference.grow`.
        path (Path): PNG file to write.
    """
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    figure = Figure(figsize=(4.2 * len(curves), 3.6), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for model in dict.fromkeys(row["model"] for row in rows if row["curve"] == curve):
            points = [row for row in rows if row["curve"] == curve and row["model"] == model]
            values = [float(row["value"]) for row in points]
            low, median, high = ([float(row[key]) for row in points] for key in ("ms_q25", "ms", "ms_q75"))
            axes.plot(values, median, marker="o", label=model)
            axes.fill_between(values, low, high, alpha=0.25)
        axes.set_xlabel(curve + (" (pixels a side)" if curve == "image size" else ""))
        axes.set_ylabel("milliseconds an image")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)

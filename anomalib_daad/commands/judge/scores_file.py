# SPDX-License-Identifier: Apache-2.0

"""The table of scores, which grows by a line an image: what was judged is not judged again after an interruption."""

import csv
import json
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from anomalib_daad.commands.shared.output_folder import write_text

GOOD, DEFECTIVE, UNDECIDED, UNREADABLE = "good", "defective", "undecided", "unreadable"


class Score(NamedTuple):
    """A line of the table.

    Attributes:
        file (str): Path below the folder of images.
        score (float | None): Anomaly score; None for a file that cannot be read.
        verdict (str): ``"good"``, ``"defective"``, ``"undecided"`` without a threshold, or ``"unreadable"``.
        p_value (float | None): Share of good images that look at least as odd; None where the model cannot tell.
        raw_score (float | None): Score before it is scaled to [0, 1]; None where the model cannot tell.
        x (int | None): Column of the strongest point, in pixels of the image.
        y (int | None): Its row.
        note (str): Why a file cannot be read.
        version (str): Size and time of the file that was judged.
    """

    file: str
    score: float | None
    verdict: str
    p_value: float | None = None
    raw_score: float | None = None
    x: int | None = None
    y: int | None = None
    note: str = ""
    version: str = ""


class ScoresFile:
    """Table of scores that goes on where it was left.

    Args:
        folder (Path): Folder, which exists; gets ``scores.csv`` and ``judged_with.json``.
        settings (dict[str, str]): What the scores depend on.
        overwrite (bool): Start anew.

    Attributes:
        path (Path): The table.

    Raises:
        ValueError: If the folder holds scores of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, str], overwrite: bool) -> None:
        self.path = folder / "scores.csv"
        note = folder / "judged_with.json"
        if overwrite:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            self._drop_half_a_line()
        is_begun = note.exists() and self.path.exists() and bool(self.read())
        settings = {**settings, "columns": ", ".join(Score._fields)}
        before = json.loads(note.read_text(encoding="utf-8")) if is_begun else settings
        if before != settings:
            changed = ", ".join(key for key in settings if before.get(key) != settings[key])
            msg = f"{folder} holds scores of another {changed}: give another --output, or --overwrite to lose them."
            raise ValueError(msg)
        write_text(note, json.dumps(settings, indent=1))
        if not is_begun:
            write_text(self.path, ",".join(Score._fields) + "\n")

    def _drop_half_a_line(self) -> None:
        """A process that was killed may have written a part of its last line."""
        with self.path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def __enter__(self) -> "ScoresFile":
        """Open the table."""
        self._file = self.path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self._file.close()

    def add(self, score: Score) -> None:
        """Add a line.

        Args:
            score (Score): The line.
        """
        values = [float(f"{value:.6g}") if isinstance(value, float) else value for value in score]
        self._writer.writerow(["" if value is None else value for value in values])
        self._file.flush()

    def read(self) -> list[Score]:
        """Read the last line of each file.

        Returns:
            list[Score]: The lines, in the order in which images were judged first.
        """
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = {row["file"]: row for row in csv.DictReader(file) if row.get("version") is not None}
        return [
            Score(
                file=row["file"],
                score=_number(row["score"]),
                verdict=row["verdict"],
                p_value=_number(row["p_value"]),
                raw_score=_number(row["raw_score"]),
                x=int(row["x"]) if row["x"] else None,
                y=int(row["y"]) if row["y"] else None,
                note=row["note"],
                version=row["version"],
            )
            for row in rows.values()
        ]


def _number(text: str) -> float | None:
    return float(text) if text else None

# SPDX-License-Identifier: Apache-2.0

"""Folders that commands write to, and files that are there whole or not at all."""

import csv
import errno
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def prepare_folder(folder: Path) -> None:
    """Make a folder to write to.

    Args:
        folder (Path): Folder; may exist.

    Raises:
        OSError: If it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"Cannot write to the folder {folder} ({error.strerror}): choose another one with --output."
        raise OSError(msg) from error


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; processes that write it at once do not mix.

    Args:
        path (Path): File.
        text (str): Its contents.

    Raises:
        OSError: If it cannot be written; what was there before is kept.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        msg = f"There is no space left to write {path}; what is finished is kept: free some and start again."
        raise OSError(msg) from error


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, whole or not at all.

    Args:
        rows (Sequence[Row]): Rows; columns are those of all of them.
        path (Path): File to write.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[Row]:
    """Read what :func:`write_table` wrote.

    Args:
        path (Path): File to read.

    Returns:
        list[Row]: Rows of strings.
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

# SPDX-License-Identifier: Apache-2.0

"""Links to folders whose names have letters beyond ASCII: anomalib refuses such paths, and follows links to them.

Example:
    >>> from pathlib import Path
    >>> ascii_link(Path("datasets/MVTecAD"))
    PosixPath('datasets/MVTecAD')
"""

import tempfile
from functools import cache
from pathlib import Path

_HOME: list[tempfile.TemporaryDirectory[str]] = []  # goes when the process does


def ascii_link(folder: Path) -> Path:
    """Name a folder in ASCII.

    Args:
        folder (Path): Folder.

    Returns:
        Path: The folder itself where its path is ASCII; elsewhere a link to it that lasts as long as the process.

    Raises:
        ValueError: If the system lets nobody link, or has no place of an ASCII name for links.
    """
    if str(folder.absolute()).isascii():
        return folder
    try:
        return _link(folder.resolve())
    except OSError as error:
        msg = f"anomalib reads no folder whose path has letters beyond ASCII, and {folder} cannot be linked to: "
        msg += f"{error}. Move the images to a folder with a plain name."
        raise ValueError(msg) from error


@cache
def _link(folder: Path) -> Path:
    if not _HOME:
        home = Path(tempfile.gettempdir())
        plain = home if str(home).isascii() else Path(folder.anchor) / "tmp"
        _HOME.append(tempfile.TemporaryDirectory(prefix="anomalib_daad_", dir=plain))
    number = sum(1 for _ in Path(_HOME[0].name).iterdir())
    link = Path(_HOME[0].name) / str(number) / "images"
    link.parent.mkdir()
    link.symlink_to(folder, target_is_directory=True)
    return link

# SPDX-License-Identifier: Apache-2.0

"""The configurations that the package brings, for ``anomalib train --config``."""

import sys
from difflib import get_close_matches
from pathlib import Path

from anomalib_daad.commands.shared.output_folder import write_text

_PACKAGE = Path(__file__).parents[1]


def find_configurations() -> dict[str, Path]:
    """Find the configurations, in the installed package or in the checkout that it runs from.

    Returns:
        dict[str, Path]: Files by name, without the suffix, in the order of the alphabet.
    """
    folders = [_PACKAGE / "configs", _PACKAGE.parent / "configs"]
    folder = next((it for it in folders if it.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config(name: str | None = None, output: Path | None = None) -> None:
    """Print a configuration, or write it to a file: anomalib-daad config daad_restoration --output parts.yaml.

    Args:
        name: Name of a configuration; all names are listed if not given.
        output: YAML file to write; what is there is kept.

    Raises:
        ValueError: If there is no such configuration, or the file is there already.
    """
    known = find_configurations()
    if name is None:
        lines = [
            f"{it:24}{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}" for it, path in known.items()
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    path = known.get(name.removesuffix(".yaml"))
    if path is None:
        near = get_close_matches(name, known, cutoff=0.4) or known
        msg = f"There is no configuration {name}; the nearest are {', '.join(near)}."
        raise ValueError(msg)
    text = path.read_text(encoding="utf-8")
    if output is None:
        sys.stdout.write(text)
    elif output.exists():
        msg = f"{output} is there already: give another name."
        raise ValueError(msg)
    else:
        write_text(output, text)

# SPDX-License-Identifier: Apache-2.0

"""Pages made from templates, which escape whatever is put into them."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomalib_daad.commands.shared.output_folder import write_text

_PAGES = Environment(
    loader=PackageLoader("anomalib_daad.commands.shared", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, path: Path, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        template (str): Name of the template.
        path (Path): HTML file.
        values (Any): What the template shows.
    """
    write_text(path, _PAGES.get_template(template).render(**values))

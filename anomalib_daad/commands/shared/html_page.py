# SPDX-License-Identifier: Apache-2.0

"""Pages with all pictures inside, which open anywhere without a network."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from .output_folder import write_text
from .picture import Omission, Picture

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 44rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.5rem; color: #333; }
.wide { overflow-x: auto; background: /* a shadow where there is more to scroll to */
    linear-gradient(to right, #fff 1rem, #fff0 3rem) local, linear-gradient(to left, #fff 1rem, #fff0 3rem) local,
    linear-gradient(to right, #0004, #0000) 0 / 0.75rem 100% no-repeat,
    linear-gradient(to left, #0004, #0000) 100% / 0.75rem 100% no-repeat; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #333; padding-bottom: 0.5rem; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: right; border-bottom: 1px solid #ccc;
  overflow-wrap: break-word; }
td { min-width: 5rem; }
th:first-child { min-width: 6.5rem; text-align: left; overflow-wrap: normal; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.25rem, 1fr)); gap: 0.5rem;
  margin: 0.5rem 0 1.5rem; }
.tiles figcaption { font-size: 0.8rem; line-height: 1.3; margin-top: 0.25rem; }
.summary { border-left: 0.3rem solid #0072B2; padding-left: 1rem; font-size: 1.1rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 0.9rem; }
  .wide { overflow: visible; background: none; }
  h2, caption, thead, section > p { break-after: avoid; }
  figure, tr, table, .tiles, dl { break-inside: avoid; }
  section > figure { max-width: 26rem; }
  figcaption { break-before: avoid; }
  * { print-color-adjust: exact; }
}
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
  table { font-size: 0.8rem; }
  th, td { padding-right: 0.5rem; }
  td { min-width: 4rem; }
  th:first-child { min-width: 5rem; }
}
"""


def write_page(path: Path, title: str, blocks: Iterable[str]) -> None:
    """Write a page.

    Args:
        path (Path): HTML file to write.
        title (str): Title of the page.
        blocks (Iterable[str]): HTML of its parts.
    """
    body = "\n".join(blocks)
    write_text(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
""",
    )


def facts(values: Mapping[str, str]) -> str:
    """List facts.

    Args:
        values (Mapping[str, str]): What the page is about, name by name.

    Returns:
        str: HTML.
    """
    terms = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items())
    return f"<dl>\n{terms}\n</dl>"


def section(heading: str, *blocks: str) -> str:
    """Put blocks under a heading.

    Args:
        heading (str): Heading.
        blocks (str): HTML.

    Returns:
        str: HTML.
    """
    return "\n".join(["<section>", f"<h2>{escape(heading)}</h2>", *blocks, "</section>"])


def picture_section(picture: tuple[Picture, Path] | Omission) -> str:
    """Show a picture under its heading.

    Args:
        picture (tuple[Picture, Path] | Omission): Picture with its PNG file, or one left out.

    Returns:
        str: HTML.
    """
    if isinstance(picture, Omission):
        return section(picture.heading, f"<p>Left out. {escape(picture.reason)}</p>")
    drawn, path = picture
    shown = image(path.read_bytes(), "png", drawn.alt)
    return section(drawn.heading, f"<figure>\n{shown}\n<figcaption>{escape(drawn.caption)}</figcaption>\n</figure>")


def breakable(text: str) -> str:
    """Let long names break after underscores.

    Args:
        text (str): Text.

    Returns:
        str: HTML.
    """
    return escape(text).replace("_", "_<wbr>")


def image(content: bytes, kind: str, alt: str) -> str:
    """Put an image inside the page.

    Args:
        content (bytes): Its file.
        kind (str): ``"png"`` or ``"jpeg"``.
        alt (str): What is to be seen, for who cannot see it.

    Returns:
        str: HTML.
    """
    return f'<img src="data:image/{kind};base64,{b64encode(content).decode()}" alt="{escape(alt)}">'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Make a table that scrolls sideways on a narrow screen.

    Args:
        header (Sequence[str]): Names of the columns.
        rows (Iterable[Sequence[str]]): Cells; the first of a row names it.
        caption (str): What the table says.

    Returns:
        str: HTML.
    """
    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{breakable(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )

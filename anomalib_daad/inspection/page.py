# SPDX-License-Identifier: Apache-2.0

"""One page with all pictures inside, which opens anywhere without a network."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

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
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
}
"""


def write_page(
    path: Path, title: str, facts: Mapping[str, str], pictures: Iterable[tuple[Picture, Path] | Omission]
) -> None:
    """Write a page of pictures.

    Args:
        path (Path): HTML file to write.
        title (str): Title of the page.
        facts (Mapping[str, str]): What the page is about, name by name.
        pictures (Iterable[tuple[Picture, Path] | Omission]): Pictures with their PNG files, and those left out.
    """
    terms = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    sections = "\n".join(_section(picture) for picture in pictures)
    path.write_text(
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
<dl>
{terms}
</dl>
{sections}
</main>
</body>
</html>
""",
        encoding="utf-8",
    )


def _section(picture: tuple[Picture, Path] | Omission) -> str:
    if isinstance(picture, Omission):
        return f"<section>\n<h2>{escape(picture.heading)}</h2>\n<p>Left out. {escape(picture.reason)}</p>\n</section>"
    drawn, path = picture
    source = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
    return (
        f'<section>\n<h2>{escape(drawn.heading)}</h2>\n<figure>\n<img src="{source}" alt="{escape(drawn.alt)}">\n'
        f"<figcaption>{escape(drawn.caption)}</figcaption>\n</figure>\n</section>"
    )

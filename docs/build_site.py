# SPDX-License-Identifier: Apache-2.0

"""Build the documentation as a site: the pages of docs/, the models' READMEs, and a reference made of docstrings.

Pages link to each other and to tables as they do in the repository, so that the site is built from a copy of it that
holds nothing else.

Example:
    pip install ".[docs]" && python docs/build_site.py --output site
"""

import argparse
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from mkdocs.commands import build as build_command
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *("docs/**/*", "configs/*", "benchmarks/**/*", "anomalib_daad/models/*/*"),
    *("anomalib_daad/components/*", "examples/*"),
)
CONFIGURATION = """
site_name: anomalib-daad
docs_dir: {pages}
site_dir: {output}
use_directory_urls: false
theme:
  name: material
  features: [navigation.sections, content.code.copy]
  palette:
    - {{media: "(prefers-color-scheme: light)", scheme: default, primary: blue}}
    - {{media: "(prefers-color-scheme: dark)", scheme: slate, primary: blue}}
  font: false
plugins:
  - search
  - mkdocstrings:
      handlers:
        python:
          paths: [{root}]
          options: {{show_source: false, show_root_heading: true, heading_level: 2, members_order: source}}
markdown_extensions:
  - tables
  - attr_list
  - pymdownx.superfences:
      custom_fences:
        - {{name: mermaid, class: mermaid, format: !!python/name:pymdownx.superfences.fence_code_format ""}}
  - toc
validation:
  links: {{unrecognized_links: warn, anchors: warn}}
nav:
  - Start: README.md
  - Own images: docs/tutorial.md
  - Own programs: examples/README.md
  - Which detector: docs/models.md
  - Speed and deployment: docs/speed.md
  - Detectors:
      - DaadRestoration: anomalib_daad/models/daad_restoration/README.md
      - Daad: anomalib_daad/models/daad/README.md
      - MemAe: anomalib_daad/models/memae/README.md
      - Mnad: anomalib_daad/models/mnad/README.md
      - Tried and left out: docs/restoration_tried.md
  - Papers: docs/papers.md
  - Faults: docs/faults.md
  - Reference: docs/reference.md
  - All documents: docs/README.md
  - Contributing: CONTRIBUTING.md
  - Changes: CHANGELOG.md
"""


def main() -> None:
    """Build the site; a link that leads nowhere ends with an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("site"))
    output = parser.parse_args().output.resolve()
    logging.basicConfig(format="%(levelname)s %(message)s")
    with TemporaryDirectory() as folder:
        pages = Path(folder, "pages")
        for pattern in SHOWN:
            for source in ROOT.glob(pattern):
                if source.is_file() and "__pycache__" not in source.parts:
                    target = pages / source.relative_to(ROOT)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        configuration = Path(folder, "mkdocs.yml")
        configuration.write_text(CONFIGURATION.format(pages=pages, output=output, root=ROOT), encoding="utf-8")
        build_command.build(load_config(str(configuration), strict=True))


if __name__ == "__main__":
    main()

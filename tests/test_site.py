# SPDX-License-Identifier: Apache-2.0

"""The documentation builds as a site, without a link that leads nowhere."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path) -> None:
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-W", "ignore", str(ROOT / "docs" / "build_site.py"), "--output", str(tmp_path / "site")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "placement_radius" in (tmp_path / "site" / "docs" / "reference.html").read_text()
    assert (tmp_path / "site" / "index.html").read_text().count("DaadRestoration") > 5

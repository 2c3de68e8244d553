# SPDX-License-Identifier: Apache-2.0

"""Pages in a real browser."""

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest


def open_in_browser(page: Path, folder: Path, width: int) -> tuple[list[str], list[str], np.ndarray]:
    """Open a page; what it wrote on the console, the addresses that it asked for, and what it looks like."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("install chromium to open the page in a browser")
    screenshot, net_log = folder / "page.png", folder / "net.json"
    options = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    options += f" --disable-sync --no-first-run --enable-logging=stderr --hide-scrollbars --window-size={width},2000"
    files = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={screenshot}", f"--log-net-log={net_log}"]
    command = [browser, *options.split(), "--host-resolver-rules=MAP * ~NOTFOUND", *files, page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    log = json.loads(net_log.read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event.get("params", {}) for event in log["events"] if event["type"] == start]
    asked = [request["url"] for request in requests if request.get("initiator", "not an origin") != "not an origin"]
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return console, asked, cv2.imread(str(screenshot))

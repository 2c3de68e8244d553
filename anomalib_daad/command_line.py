# SPDX-License-Identifier: Apache-2.0

"""``anomalib-daad``: the plugin's own commands. What anomalib does, ``anomalib`` does."""

import sys

from jsonargparse import auto_cli

from .speed.benchmark import speed


def main() -> None:
    """Run a command; bad input is one line on standard error and exit status 2."""
    try:
        auto_cli({"speed": speed}, prog="anomalib-daad", description=__doc__, as_positional=False)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"anomalib-daad: error: {error}\n")
        sys.exit(2)

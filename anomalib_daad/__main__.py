# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_daad <anomalib arguments>``: anomalib's command line with the plugin loaded.

For environments that run no start-up hooks, such as ``python -S`` and zip applications; elsewhere ``anomalib`` alone
does. Bad input is one line, without a traceback, and exit status 2.
"""

import sys

from anomalib.cli.cli import main

import anomalib_daad  # noqa: F401


def describe(error: Exception) -> str:
    """Describe an error in one line.

    Args:
        error (Exception): Error. jsonargparse lists the reasons of a failed union, the class's own one last.

    Returns:
        str: The reason.
    """
    reasons = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
    return " ".join((reasons or [str(error)])[-1].split())


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"anomalib_daad: error: {describe(error)}\n")
        sys.exit(2)

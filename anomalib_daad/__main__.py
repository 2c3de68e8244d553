# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_daad <anomalib arguments>``: anomalib's command line with the plugin loaded.

For environments that run no start-up hooks, such as ``python -S`` and zip applications; elsewhere ``anomalib`` alone
does. Bad input is one line, without a traceback.
"""

import sys

from anomalib.cli.cli import main

import anomalib_daad  # noqa: F401

if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"anomalib_daad: error: {error}")

# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_daad <anomalib arguments>``: anomalib's command line with the plugin loaded.

For environments that run no start-up hooks, such as ``python -S`` and zip applications; elsewhere ``anomalib`` alone
does. Bad input is one line, without a traceback, and exit status 2.
"""

import sys

from anomalib.cli.cli import main

import anomalib_daad  # noqa: F401

from .error_message import one_sentence
from .last_line import add_last_line, say

if __name__ == "__main__":
    add_last_line()
    try:
        main()
    except (OSError, ValueError) as error:
        say(one_sentence(error))
        sys.exit(2)

# SPDX-License-Identifier: Apache-2.0

"""Models side by side on the same data, and the report of it. Run with ``anomalib-daad compare``."""

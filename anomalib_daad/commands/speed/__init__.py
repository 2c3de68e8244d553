# SPDX-License-Identifier: Apache-2.0

"""Speed benchmark: Daad beside anomalib's models, in one run, as ratios. Run with ``anomalib-daad speed``."""

# SPDX-License-Identifier: Apache-2.0

"""Pictures of what a trained model does, on one page. Run with ``anomalib-daad inspect``."""

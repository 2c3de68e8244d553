# SPDX-License-Identifier: Apache-2.0

"""Add a new kind of good images to a trained model: ``anomalib-daad update``."""

# SPDX-License-Identifier: Apache-2.0

"""The tables of DAAD's paper, run again: ``anomalib-daad reproduce``."""

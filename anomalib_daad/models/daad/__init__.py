# SPDX-License-Identifier: Apache-2.0

"""DAAD, the paper's model and those of its tables."""

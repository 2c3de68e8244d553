# SPDX-License-Identifier: Apache-2.0

"""The detectors, a folder each."""

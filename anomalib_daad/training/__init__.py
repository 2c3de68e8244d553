# SPDX-License-Identifier: Apache-2.0

"""What all detectors do alike under Lightning."""

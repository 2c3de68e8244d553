# SPDX-License-Identifier: Apache-2.0

"""Networks and scores that several detectors use."""

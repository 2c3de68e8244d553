# SPDX-License-Identifier: Apache-2.0

"""Datamodules, and the reading and checking of image files."""

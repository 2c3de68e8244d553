# SPDX-License-Identifier: Apache-2.0

"""MNAD and its reproduction."""

# SPDX-License-Identifier: Apache-2.0

"""MNAD and its reproduction."""

from .lightning_model import Mnad
from .torch_model import MnadModel

__all__ = ["Mnad", "MnadModel"]

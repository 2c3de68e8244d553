# SPDX-License-Identifier: Apache-2.0

"""DAAD, the paper's model and those of its tables."""

from .lightning_model import Daad
from .torch_model import DaadModel

__all__ = ["Daad", "DaadModel"]

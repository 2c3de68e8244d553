# SPDX-License-Identifier: Apache-2.0

"""MemAE, as its own paper has it."""

from .lightning_model import MemAe
from .torch_model import MemAeModel

__all__ = ["MemAe", "MemAeModel"]

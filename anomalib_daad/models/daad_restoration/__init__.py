# SPDX-License-Identifier: Apache-2.0

"""The recommended detector: restoration training."""

from .lightning_model import DaadRestoration
from .torch_model import RestorationModel

__all__ = ["DaadRestoration", "RestorationModel"]

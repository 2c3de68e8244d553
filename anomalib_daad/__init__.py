# SPDX-License-Identifier: Apache-2.0

"""DAAD for anomalib: block-wise memory anomaly detection learned from good images alone.

Example:
    >>> from anomalib_daad import Daad
    >>> model = Daad(image_size=(128, 128))
"""

from .demo_data import DemoTextures
from .lightning_model import Daad
from .mnad import Mnad
from .registration import register

register(Daad, Mnad, DemoTextures)

__all__ = ["Daad", "DemoTextures", "Mnad"]

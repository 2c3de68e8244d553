# SPDX-License-Identifier: Apache-2.0

"""DAAD for anomalib: block-wise memory anomaly detection learned from good images alone.

Example:
    >>> from anomalib_daad import Daad
    >>> model = Daad(image_size=(128, 128))
"""

from .demo_data import DemoTextures
from .image_reading import read_image
from .lightning_model import Daad
from .mnad import Mnad
from .one_class import OneClassCIFAR10, OneClassMNIST
from .registration import register
from .safetensors_model import load_safetensors, save_safetensors

register(Daad, Mnad, DemoTextures, OneClassMNIST, OneClassCIFAR10)

__all__ = [
    "Daad",
    "DemoTextures",
    "Mnad",
    "OneClassCIFAR10",
    "OneClassMNIST",
    "load_safetensors",
    "read_image",
    "save_safetensors",
]

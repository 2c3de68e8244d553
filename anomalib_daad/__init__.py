# SPDX-License-Identifier: Apache-2.0

"""DAAD for anomalib: block-wise memory anomaly detection learned from good images alone.

Example:
    >>> from anomalib_daad import Daad
    >>> model = Daad(image_size=(128, 128))
"""

from anomalib_daad.data.demo_textures import DemoTextures
from anomalib_daad.data.image_reading import read_image
from anomalib_daad.data.one_class import OneClassCIFAR10, OneClassMNIST
from anomalib_daad.models.daad.lightning_model import Daad
from anomalib_daad.models.mnad.lightning_model import Mnad

from .registration import register
from .safetensors_file import load_safetensors, save_safetensors

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

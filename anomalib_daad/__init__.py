# SPDX-License-Identifier: Apache-2.0

"""Anomaly detection learned from good images alone, without pretrained weights, for anomalib.

``DaadRestoration`` is the recommended detector; ``Daad`` is the paper's, with the systems of its tables; ``MemAe`` and
``Mnad`` are its relatives.

Example:
    >>> from anomalib_daad import DaadRestoration
    >>> model = DaadRestoration()
"""

from importlib.metadata import PackageNotFoundError, version

from .data.demo_textures import DemoTextures
from .data.image_reading import read_image
from .data.one_class_cifar10 import OneClassCIFAR10
from .data.one_class_mnist import OneClassMNIST
from .earlier_exports import refuse_earlier_exports
from .last_line import add_last_line
from .models.daad import Daad
from .models.daad_restoration import DaadRestoration
from .models.memae import MemAe
from .models.mnad import Mnad
from .registration import MODELS, register
from .safetensors_file import load_safetensors, save_safetensors
from .training.false_alarms import FalseAlarmPostProcessor
from .training.ignore_mask import IgnoreMask

try:
    __version__ = version("anomalib-daad")
except PackageNotFoundError:  # a copy of the folder, not an installation
    __version__ = "unknown"

register()
refuse_earlier_exports()
add_last_line()

__all__ = [
    "MODELS",
    "Daad",
    "DaadRestoration",
    "DemoTextures",
    "FalseAlarmPostProcessor",
    "IgnoreMask",
    "MemAe",
    "Mnad",
    "OneClassCIFAR10",
    "OneClassMNIST",
    "load_safetensors",
    "read_image",
    "save_safetensors",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

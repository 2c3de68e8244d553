# SPDX-License-Identifier: Apache-2.0

"""The models and datamodules of this package, in one place, and how anomalib comes to know them.

anomalib's ``list_models`` and ``get_model("daad_restoration")`` look at the imported subclasses of ``AnomalibModule``,
which importing this package provides; ``get_model({"class_path": ...})`` looks into ``anomalib.models`` and into the
modules that it allows, ``get_datamodule`` and ``anomalib benchmark`` into ``anomalib.data``.
"""

from anomalib import data as anomalib_data
from anomalib import models as anomalib_models
from anomalib.data.datamodules.base import AnomalibDataModule

from .data.demo_textures import DemoTextures
from .data.one_class_cifar10 import OneClassCIFAR10
from .data.one_class_mnist import OneClassMNIST
from .models.daad import Daad
from .models.daad_restoration import DaadRestoration
from .models.memae import MemAe
from .models.mnad import Mnad

Model = DaadRestoration | Daad | MemAe | Mnad
MODELS: dict[str, type[Model]] = {model.__name__: model for model in (DaadRestoration, Daad, MemAe, Mnad)}
DATAMODULES: dict[str, type[AnomalibDataModule]] = {
    datamodule.__name__: datamodule for datamodule in (DemoTextures, OneClassMNIST, OneClassCIFAR10)
}


def register() -> None:
    """Register all of them with anomalib; again is harmless, and nothing of anomalib's own is replaced."""
    for home, classes in ((anomalib_models, MODELS), (anomalib_data, DATAMODULES)):
        for name, added in classes.items():
            if not hasattr(home, name):
                setattr(home, name, added)
    anomalib_models.ALLOWED_MODULES.add(__name__.partition(".")[0])

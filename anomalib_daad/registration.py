# SPDX-License-Identifier: Apache-2.0

"""Makes the plugin's models and datamodules known to anomalib.

anomalib's ``list_models`` and ``get_model("daad")`` look at the imported subclasses of ``AnomalibModule``, which
importing this package provides; ``get_model({"class_path": ...})`` looks into ``anomalib.models`` and into the
modules that it allows, ``get_datamodule`` and ``anomalib benchmark`` into ``anomalib.data``.
"""

from anomalib import data as anomalib_data
from anomalib import models as anomalib_models
from anomalib.data.datamodules.base import AnomalibDataModule
from anomalib.models.components import AnomalibModule


def register(*classes: type[AnomalibModule] | type[AnomalibDataModule]) -> None:
    """Register classes with anomalib; again is harmless, and nothing of anomalib's own is replaced.

    Args:
        classes (type[AnomalibModule] | type[AnomalibDataModule]): Models and datamodules of this package.
    """
    for added in classes:
        home = anomalib_models if issubclass(added, AnomalibModule) else anomalib_data
        if not hasattr(home, added.__name__):
            setattr(home, added.__name__, added)
    anomalib_models.ALLOWED_MODULES.add(__name__.partition(".")[0])

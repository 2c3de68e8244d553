# SPDX-License-Identifier: Apache-2.0

"""Makes the plugin's models known to anomalib.

anomalib's ``list_models`` and ``get_model("daad")`` look at the imported subclasses of ``AnomalibModule``, which
importing this package provides; ``get_model({"class_path": ...})`` looks into ``anomalib.models`` and into the
modules that it allows.
"""

from anomalib import models as anomalib_models
from anomalib.models.components import AnomalibModule


def register(*models: type[AnomalibModule]) -> None:
    """Register models with anomalib; again is harmless, and nothing of anomalib's own is replaced.

    Args:
        models (type[AnomalibModule]): Model classes of this package.
    """
    for model in models:
        if not hasattr(anomalib_models, model.__name__):
            setattr(anomalib_models, model.__name__, model)
    anomalib_models.ALLOWED_MODULES.add(__name__.partition(".")[0])

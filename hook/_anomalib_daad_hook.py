# SPDX-License-Identifier: Apache-2.0

"""Start-up hook: registers anomalib-daad when, and only when, a process imports ``anomalib.models``.

anomalib finds models among imported classes and loads no plugins. This finder waits for ``anomalib.models``, lets it
load, and then imports the plugin; a process that never imports anomalib pays for one entry in ``sys.meta_path``.
A plugin that fails to import is logged and never breaks anomalib.
"""

import sys

TARGET = "anomalib.models"


class AnomalibFinder:
    """Meta-path finder that adds the plugin's import to the loading of ``anomalib.models``."""

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN201, D102
        if name != TARGET or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            _import_plugin_after(spec.loader)
        return spec


def install():  # noqa: ANN201
    """Put the finder in place, once."""
    if TARGET not in sys.modules and not any(isinstance(finder, AnomalibFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AnomalibFinder())


def _import_plugin_after(loader):  # noqa: ANN001, ANN202
    exec_module = loader.exec_module

    def exec_module_and_plugin(module):  # noqa: ANN001, ANN202
        del loader.exec_module
        exec_module(module)
        try:
            import anomalib_daad  # noqa: F401
        except Exception:
            import logging

            logging.getLogger("anomalib_daad").warning("The Daad model is not available to anomalib.", exc_info=True)

    loader.exec_module = exec_module_and_plugin

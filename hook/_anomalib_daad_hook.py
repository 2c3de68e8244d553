# SPDX-License-Identifier: Apache-2.0

"""Start-up hook: registers anomalib-daad when, and only when, a process imports ``anomalib.models``.

anomalib finds models among imported classes and loads no plugins. This finder waits for ``anomalib.models``, lets it
load, and then imports the plugin; a process that never imports anomalib pays for one entry in ``sys.meta_path``.
A plugin that fails to import is logged and never breaks anomalib.
"""

import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without importing typing in every process
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TARGET = "anomalib.models"


class AnomalibFinder:
    """Meta-path finder that adds the plugin's import to the loading of ``anomalib.models``."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":  # noqa: ARG002
        """Wrap the loader of ``anomalib.models``, at its first import."""
        if name != TARGET or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            _import_plugin_after(spec.loader)
        return spec


def install() -> None:
    """Put the finder in place, once."""
    if TARGET not in sys.modules and not any(isinstance(finder, AnomalibFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AnomalibFinder())


def _import_plugin_after(loader: "Loader") -> None:
    exec_module = loader.exec_module

    def exec_module_and_plugin(module: "ModuleType") -> None:
        del loader.exec_module
        exec_module(module)
        try:
            import anomalib_daad  # noqa: F401
        except Exception:
            import logging

            logging.getLogger("anomalib_daad").warning("The Daad model is not available to anomalib.", exc_info=True)

    loader.exec_module = exec_module_and_plugin  # type: ignore[method-assign]

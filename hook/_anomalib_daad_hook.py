# SPDX-License-Identifier: Apache-2.0

"""Start-up hook: registers anomalib-daad when, and only when, a process imports ``anomalib.models``.

anomalib finds models among imported classes and loads no plugins. This finder waits for ``anomalib.models``, lets it
load, and then imports the plugin; a process that never imports anomalib pays for one entry in ``sys.meta_path``.
A plugin that fails to import is logged and never breaks anomalib.
"""

import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without importing typing in every process
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TARGET = "anomalib.models"


class AnomalibFinder:
    """Meta-path finder that adds the plugin's import to the loading of ``anomalib.models``."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Find ``anomalib.models`` as the other finders do, and have the plugin follow it.

        Args:
            name (str): Module to find.
            path (Sequence[str] | None): Where to look. Defaults to ``None``.
            target (ModuleType | None): Module that is reloaded. Defaults to ``None``.

        Returns:
            ModuleSpec | None: ``None`` for every other module.
        """
        if name != TARGET:
            return None
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    self._follow(spec)
                    return spec
        return None

    def _follow(self, spec: "ModuleSpec") -> None:
        """Make the loader import the plugin too; the finder stays until that happens, as a spec may only be looked at.

        Args:
            spec (ModuleSpec): Specification of ``anomalib.models``.
        """
        loader = spec.loader
        if loader is None or not hasattr(loader, "exec_module") or not hasattr(loader, "__dict__"):
            _warn("its loader %r cannot be extended", loader)
            return
        execute = loader.exec_module

        def execute_then_import(module: "ModuleType") -> None:
            loader.__dict__.pop("exec_module", None)
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _import_plugin()

        loader.exec_module = execute_then_import  # type: ignore[method-assign]


def install() -> None:
    """Put the finder in place, once."""
    if TARGET not in sys.modules and not any(isinstance(finder, AnomalibFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AnomalibFinder())


def _import_plugin() -> None:
    try:
        import anomalib_daad  # noqa: F401
    except Exception as error:
        _warn("%s: %s", type(error).__name__, error)


def _warn(reason: str, *arguments: object) -> None:
    import logging

    logging.getLogger("anomalib_daad").warning(f"The Daad model is not available to anomalib: {reason}", *arguments)

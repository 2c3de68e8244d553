# SPDX-License-Identifier: Apache-2.0

"""What a folder may import, and how many arguments a constructor may have."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from anomalib.data.datamodules.base import AnomalibDataModule

import anomalib_daad

PACKAGE = "anomalib_daad"
ROOT = Path(anomalib_daad.__file__).parent
MOST_ARGUMENTS = 12
ANOMALIBS = {"self", "pre_processor", "post_processor", "evaluator", "visualizer"}


def allowed(module: str) -> tuple[str, ...] | None:
    """Folders and modules of ours that a module may import; None for any."""
    _, *folders = module.split(".")
    match folders:
        case ["components", *_]:
            return ("components",)
        case ["data", *_]:
            return ("data", "error_message")
        case ["training", *_]:
            return ("training", "components", "data", "error_message")
        case ["models", model, *_]:
            return ("components", "training", f"models.{model}")
        case ["models"] | ["error_message"]:
            return ()
        case ["commands", *_] | ["__main__"]:
            return None
        case _:  # the top: the package itself, its registry and the like
            return tuple(path.stem for path in ROOT.iterdir() if path.stem != "commands")


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Modules of ours that a source text imports, at its top or later, by their full names."""
    home = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]  # a name may be a module
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """Imports of a module that go through a wall."""
    ours = allowed(module)
    if ours is None:
        return []
    return [
        name
        for name in imports_of(source, module, is_package)
        if not any(f"{name}.".startswith(f"{PACKAGE}.{folder}.") for folder in ours)
    ]


def modules() -> dict[str, Path]:
    """All modules of the package, by their full names."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_stay_within_the_walls(module) -> None:
    path = modules()[module]
    assert not breaches(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def test_there_is_something_behind_every_wall() -> None:
    found = modules()
    for folder in ("components", "data", "training", "commands", *(f"models.{name}" for name in MODEL_FOLDERS)):
        assert len([name for name in found if name.startswith(f"{PACKAGE}.{folder}.")]) > 1, folder
    imported = [
        name
        for module, path in found.items()
        for name in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert len(imported) > 200


MODEL_FOLDERS = {path.name for path in (ROOT / "models").iterdir() if (path / "__init__.py").exists()}


def test_the_models_are_those_that_are_registered() -> None:
    homes = {model.__module__.split(".")[2] for model in anomalib_daad.MODELS.values()}
    assert homes == MODEL_FOLDERS


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("components.resize", "from anomalib_daad.training import ImageCache", "training.ImageCache"),
        ("components.resize", "from ..models import daad", "models.daad"),
        ("components.resize", "from anomalib_daad.error_message import first_line", "error_message.first_line"),
        ("components.resize", "def f():\n    import anomalib_daad.data.one_class", "data.one_class"),
        ("data.one_class", "from ..components import resize", "components.resize"),
        ("training.divergence", "import anomalib_daad.models.daad.loss as loss", "models.daad.loss"),
        ("training.divergence", "from anomalib_daad import Daad", "Daad"),
        ("models.memae.torch_model", "from ..mnad.torch_model import MnadModel", "models.mnad.torch_model.MnadModel"),
        ("models.daad.loss", "from .. import daad_restoration", "models.daad_restoration"),
        ("models.daad.loss", "from anomalib_daad.data import one_class", "data.one_class"),
        ("registration", "from .commands.inspect import scores", "commands.inspect.scores"),
        ("safetensors_file", "from anomalib_daad import commands", "commands"),
        ("error_message", "from . import registration", "registration"),
    ],
)
def test_a_breach_is_found(module, source, found) -> None:
    assert breaches(source, f"{PACKAGE}.{module}") == [f"{PACKAGE}.{found}"]


def test_what_is_allowed_is_no_breach() -> None:
    source = "import torch\nfrom .loss import GeneratorLoss\nfrom ..daad.loss import _bce\n"
    source += "from anomalib_daad.components.resize import ExportableResize\n"
    source += "from anomalib_daad.training import exporting\n"
    assert not breaches(source, f"{PACKAGE}.models.daad.torch_model")
    assert not breaches("from .torch_model import DaadModel", f"{PACKAGE}.models.daad", is_package=True)
    assert breaches("from .torch_model import DaadModel", f"{PACKAGE}.models.daad")  # the same text as a module's
    assert not breaches("from anomalib_daad.models.daad import Daad", f"{PACKAGE}.commands.speed.peers")


# Constructors.


def classes() -> list[type]:
    found = set()
    for info in pkgutil.walk_packages([str(ROOT)], f"{PACKAGE}."):
        if info.name != f"{PACKAGE}.__main__":
            module = importlib.import_module(info.name)
            found |= {it for _, it in inspect.getmembers(module, inspect.isclass) if it.__module__ == info.name}
    return sorted(found, key=lambda it: f"{it.__module__}.{it.__qualname__}")


def own_arguments(kind: type) -> list[str]:
    """Arguments of a constructor that a class has itself, without those that anomalib asks for."""
    if "__init__" not in vars(kind):
        return []
    return [name for name in inspect.signature(vars(kind)["__init__"]).parameters if name not in ANOMALIBS]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__qualname__)
def test_no_constructor_has_more_than_twelve_arguments(kind) -> None:
    if not issubclass(kind, AnomalibDataModule):  # whose arguments are anomalib's
        assert len(own_arguments(kind)) <= MOST_ARGUMENTS


def test_arguments_are_counted() -> None:
    class Many:
        def __init__(self, a, b, c, d, e, f, g, h, i, j, k, m, *, n=1, pre_processor=True, visualizer=True) -> None:
            del a, b, c, d, e, f, g, h, i, j, k, m, n, pre_processor, visualizer

    class Child(Many):
        pass

    assert len(own_arguments(Many)) == 13 > MOST_ARGUMENTS
    assert own_arguments(Child) == []
    counts = {name: len(own_arguments(model)) for name, model in anomalib_daad.MODELS.items()}
    assert counts["DaadRestoration"] == 7
    assert all(count <= MOST_ARGUMENTS for count in counts.values())

# SPDX-License-Identifier: Apache-2.0

"""The table of properties of all systems in all runtimes: ``python benchmarks/faults/properties.py OUTPUT.csv``.

It runs ``tests/test_properties.py`` with exports of every system, which the tests leave out for their time, and notes
what each property did.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anomalib_daad.commands.shared.output_folder import write_table
from anomalib_daad.error_message import first_line

RUNTIMES = ("eager", "reloaded", "torch_inferencer", "onnx", "openvino")


class Notes:
    """A pytest plugin that looks on while the properties are tried."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.now = {"system": "", "runtime": ""}
        self.images = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Look on in the module of the tests."""
        module: ModuleType = items[0].module  # type: ignore[attr-defined]
        module.EXPORTED = module.DISTINCT
        for name in RUNTIMES:
            setattr(module, name, self.counted(getattr(module, name)))
        module.OF_A_RUNTIME = [self.noted(holds) for holds in module.OF_A_RUNTIME]
        module.OF_A_SYSTEM = [self.noted(holds) for holds in module.OF_A_SYSTEM]

    def counted(self, runtime: Callable) -> Callable:
        """Count the images that a runtime predicts."""

        def started(trained: Any, folder: Path) -> Callable:
            predict = runtime(trained, folder)
            self.now = {"system": trained.name, "runtime": runtime.__name__}

            def count(images: Any) -> Any:
                self.images += len(images)
                return predict(images)

            return count

        return started

    def noted(self, holds: Callable) -> Callable:
        """Note whether a property holds, and go on where it does not."""

        @functools.wraps(holds)
        def attempt(subject: Any, images: Any, expected: Any) -> None:
            self.images = 0
            row = {"system": subject.name, "runtime": "the system"} if hasattr(subject, "name") else dict(self.now)
            error = None
            try:
                holds(subject, images, expected)
            except Exception as raised:
                error = raised
            row |= {"property": holds.__name__, "outcome": "fails" if error else "holds"}
            row |= {"images": self.images or len(images), "sentence": first_line(error) if error else ""}
            self.rows.append(row)

        return attempt


def main() -> None:
    """Write a row for each property of each system in each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    output, notes = arguments.output.resolve(), Notes()
    (tests,) = (Path(__file__).parents[2] / "tests").rglob("test_properties.py")
    options = [str(tests), "-q", "-n", "0", "-p", "no:cacheprovider", "-k", "properties_of"]  # notes are taken here
    code = pytest.main(options, plugins=[notes])
    write_table(notes.rows, output)
    sys.exit(code)


if __name__ == "__main__":
    main()

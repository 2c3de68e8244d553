# SPDX-License-Identifier: Apache-2.0

"""The notebook runs from top to bottom, and holds no outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "start.ipynb"
LONG, SHORT = "STEPS = 150", "STEPS = 2"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_its_cells_run_one_after_the_other(cells) -> None:
    pytest.importorskip("onnxruntime")
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(LONG in source for source in sources) == 1
    names: dict = {}
    for source in sources:
        exec(compile(source.replace(LONG, SHORT), str(NOTEBOOK), "exec"), names)
    assert names["picture"].is_file()
    assert names["exported"].suffix == ".onnx"
    assert len(names["scores"]) == 70
    assert set(names["scores"].verdict) <= {"good", "defective"}
    assert names["metrics"]["image_AUROC"] > 0


def test_it_holds_no_outputs_and_begins_and_ends_with_words(cells) -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert cells[0]["cell_type"] == cells[-1]["cell_type"] == "markdown"

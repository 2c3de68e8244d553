# SPDX-License-Identifier: Apache-2.0

"""Files of earlier versions are refused in one sentence."""

import pickle
import sys
from pathlib import Path

import pytest

import anomalib_daad


@pytest.mark.parametrize(("module", "name"), [("lightning_model", "Daad"), ("mnad", "Mnad")])
def test_a_pickle_that_names_a_module_that_is_gone_says_what_to_do(module, name) -> None:
    """The first thing that a ``.pt`` export of an earlier version asks for."""
    content = f"canomalib_daad.{module}\n{name}\n.".encode()  # pickle's protocol 0: this global, and no more
    with pytest.raises(ImportError, match=rf"earlier version of anomalib-daad, whose {name} .* train the model again"):
        pickle.loads(content)


def test_modules_that_are_there_are_not_hidden() -> None:
    files = {f"anomalib_daad.{path.stem}" for path in Path(anomalib_daad.__file__).parent.glob("*.py")}
    gone = {name for name, module in sys.modules.items() if type(module).__name__ == "_Gone"}
    assert gone
    assert not files & gone
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(b"canomalib_daad.never_there\nDaad\n.")

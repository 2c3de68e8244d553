# SPDX-License-Identifier: Apache-2.0

"""How many warnings a training shows, and that no others are left out than those that are named."""

import logging
import warnings

import pytest
from conftest import make_restoration

from anomalib_daad.training.harmless_warnings import leave_out_harmless_warnings

WORKERS = "This DataLoader will create 99 worker processes in total. Our suggested max number is 2."
LEAF = "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`."


def shown(records, caplog) -> list[str]:
    return [*map(str, records), *(it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING)]


def test_a_normal_training_warns_of_nothing_of_ours_and_of_little_else(make_engine, make_datamodule, caplog) -> None:
    with warnings.catch_warnings(record=True) as records:
        warnings.resetwarnings()  # also those that Python and pytest leave out
        datamodule = make_datamodule(num_workers=2, val_split_mode="same_as_test")
        make_engine(max_steps=20).train(make_restoration(), datamodule=datamodule)
    said = shown(records, caplog)
    assert len(said) <= 2, said
    assert not any("anomalib_daad" in it or "LeafSpec" in it for it in said)


@pytest.mark.parametrize(
    ("message", "category", "module", "count"),
    [
        (LEAF, FutureWarning, "lightning.pytorch.utilities._pytree", 0),
        (LEAF, FutureWarning, "mine", 1),
        (LEAF, UserWarning, "lightning.pytorch.utilities._pytree", 1),
        ("All is lost.", FutureWarning, "lightning.pytorch.utilities._pytree", 1),
    ],
)
def test_only_what_is_named_is_left_out(message, category, module, count) -> None:
    with warnings.catch_warnings(record=True) as records:
        warnings.resetwarnings()
        leave_out_harmless_warnings()
        warnings.warn_explicit(message, category, "file.py", 1, module)
    assert len(records) == count


def test_eight_workers_are_said_once() -> None:
    with warnings.catch_warnings(record=True) as records:
        warnings.resetwarnings()
        leave_out_harmless_warnings()
        for line in (431, 437):
            warnings.warn_explicit(WORKERS, UserWarning, "dataloader.py", line, "torch.utils.data.dataloader")
    assert len(records) == 1

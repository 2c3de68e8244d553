# SPDX-License-Identifier: Apache-2.0

"""The calls of anomalib's own tests of its models, for every model of this package."""

import pytest
from anomalib.deploy import ExportType
from anomalib.models import get_model

from anomalib_daad import MODELS

SMALL = {"image_size": (32, 32), "base_channels": 4}
ARGUMENTS = {
    "Daad": {**SMALL, "division_rates": (2, 2, 1), "num_items": 10},
    "DaadRestoration": {"image_size": (64, 64), "downscale": 2, "base_channels": 4},
    "MemAe": {**SMALL, "num_items": 10},
    "Mnad": SMALL,
}
pytest.importorskip("openvino")


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name):
    return get_model(name, **ARGUMENTS[name])


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    """Checkpoint of each model, once it is trained."""
    return {}


@pytest.fixture
def checkpoint(kept, name, make_datamodule, make_engine) -> str:
    if name not in kept:
        engine = make_engine(max_epochs=1)
        engine.fit(get_model(name, **ARGUMENTS[name]), datamodule=make_datamodule())
        kept[name] = engine.best_model_path
    return kept[name]


def test_arguments_are_known_for_every_model() -> None:
    assert set(ARGUMENTS) == set(MODELS)


def test_fit(model, make_datamodule, make_engine) -> None:
    make_engine(max_epochs=1).fit(model=model, datamodule=make_datamodule())


def test_train(model, make_datamodule, make_engine) -> None:
    assert make_engine(max_epochs=1).train(model=model, datamodule=make_datamodule())


def test_test(model, checkpoint, make_datamodule, make_engine) -> None:
    (metrics,) = make_engine().test(model=model, datamodule=make_datamodule(), ckpt_path=checkpoint)
    assert "image_AUROC" in metrics


def test_validate(model, checkpoint, make_datamodule, make_engine) -> None:
    make_engine().validate(model=model, datamodule=make_datamodule(), ckpt_path=checkpoint)


def test_predict(model, checkpoint, make_datamodule, make_engine) -> None:
    datamodule = make_datamodule()
    batches = make_engine().predict(model=model, datamodule=datamodule, ckpt_path=checkpoint)
    assert sum(len(batch.image_path) for batch in batches) == 11


@pytest.mark.parametrize("kind", list(ExportType))
def test_export(kind, name, model, checkpoint, make_engine, tmp_path) -> None:
    if kind != ExportType.TORCH and (kind, name) != (ExportType.OPENVINO, "MemAe"):
        pytest.skip("an export takes seconds: test_exporting.py and test_properties.py have those of the other models")
    path = make_engine().export(model=model, ckpt_path=checkpoint, export_type=kind, export_root=tmp_path)
    assert path.exists()

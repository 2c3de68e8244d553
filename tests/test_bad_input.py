# SPDX-License-Identifier: Apache-2.0

"""Bad input gets one clear sentence."""

import pytest
import torch
from anomalib.models import Padim
from conftest import make_model

from anomalib_daad import Daad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (100, 100)}, ["100x100", "divisible by 32x32", "image_size"]),
        ({"division_rates": (3, 2, 1)}, ["32x32", "(3, 2)"]),
        ({"gamma": 1.01}, ["gamma", "[0, 1]", "1.01"]),
        ({"num_items": 0}, ["num_items", "at least 1"]),
        ({"learning_rate": 0.0}, ["learning_rate", "positive"]),
        ({"lambda_rec": -1.0}, ["lambda_rec=-1"]),
        ({"temperature": -1.0}, ["temperature", "at least 0.02"]),
        ({"memory_init": "ones"}, ["normal", "ones"]),
        ({"distance": "l1"}, ["mse", "l1"]),
        ({"generator_objective": "wasserstein"}, ["saturating", "wasserstein"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        make_model(**arguments)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.fixture
def checkpoint(make_datamodule, make_engine) -> str:
    engine = make_engine(max_epochs=1)
    engine.fit(make_model(), datamodule=make_datamodule())
    return engine.trainer.checkpoint_callback.best_model_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_items": 7}, ["num_items=10 in the checkpoint", "7 here"]),
        ({"adversarial": False}, ["adversarial=True in the checkpoint", "False here"]),
        ({"image_size": (64, 64), "base_channels": 8}, ["image_size=(32, 32)", "base_channels=4"]),
    ],
)
def test_checkpoint_of_another_architecture(make_datamodule, make_engine, checkpoint, arguments, words) -> None:
    for action in ("fit", "test"):
        engine = make_engine(max_epochs=2)
        with pytest.raises(ValueError, match="does not fit") as error:
            getattr(engine, action)(make_model(**arguments), datamodule=make_datamodule(), ckpt_path=checkpoint)
        assert all(word in str(error.value) for word in words)
    with pytest.raises(ValueError, match="does not fit"):
        Daad.load_from_checkpoint(checkpoint, **arguments)


def test_checkpoint_of_another_model(make_datamodule, make_engine, tmp_path) -> None:
    padim = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=10)
    path = tmp_path / "padim.ckpt"
    torch.save(
        {
            "state_dict": padim.state_dict(),
            "hyper_parameters": dict(padim.hparams),
            "pytorch-lightning_version": "2.6.0",
        },
        path,
    )
    with pytest.raises(ValueError, match="another kind of model"):
        Daad.load_from_checkpoint(path)
    with pytest.raises(ValueError, match="another kind of model"):
        make_engine().test(make_model(), datamodule=make_datamodule(), ckpt_path=path)


def test_pre_processor_of_another_size(make_datamodule, make_engine) -> None:
    model = make_model(pre_processor=Daad.configure_pre_processor((64, 64)))
    with pytest.raises(ValueError, match=r"3, 32, 32.*3, 64, 64.*image_size"):
        make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())

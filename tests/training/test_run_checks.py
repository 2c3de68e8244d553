# SPDX-License-Identifier: Apache-2.0

"""Runs that would end in silence, or in scores that mean nothing, are refused as they start."""

import copy
import logging
from contextlib import nullcontext

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from conftest import make_model, make_restoration
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torchvision.transforms.v2 import Compose, Normalize, RandomCrop, Resize

from anomalib_daad import Daad, MemAe, Mnad
from anomalib_daad.training import run_checks

SMALL = {"image_size": (32, 32), "base_channels": 4, "seed": 0}


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_other_precisions_are_refused(precision, make_datamodule, make_engine) -> None:
    with pytest.raises(ValueError, match=rf"float32, got precision {precision}: use 32-true, 16-mixed, bf16-mixed"):
        make_engine(max_epochs=1, precision=precision).fit(make_model(), datamodule=make_datamodule())


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_steps": 4, "max_epochs": -1}, {"max_epochs": 1}])
def test_an_engine_trains_one_model(length, make_datamodule, make_engine) -> None:
    engine, second = make_engine(**length), Mnad(**SMALL)
    engine.fit(make_model(), datamodule=make_datamodule())
    before = copy.deepcopy(dict(second.named_parameters()))
    with pytest.raises(ValueError, match=r"this Mnad short: make a new Engine for each training"):
        engine.fit(second, datamodule=make_datamodule())
    assert all(torch.equal(value, before[name]) for name, value in second.named_parameters())
    make_engine(**length).fit(second, datamodule=make_datamodule())


@pytest.mark.parametrize(("epochs", "steps", "refused"), [(1, 0, True), (0, 5, True), (2, 7, True), (0, 0, False)])
def test_the_counts_of_any_other_model_count(epochs, steps, refused) -> None:
    """One of anomalib's, whose steps Lightning does not see in the manual loop, and one that was stopped early."""

    class Used:
        ckpt_path, global_step, current_epoch = None, steps, epochs

    expectation = pytest.raises(ValueError, match="this Daad short") if refused else nullcontext()
    with expectation:
        run_checks.refuse_a_used_trainer(Used(), make_model())


def test_an_engine_may_train_its_model_again(make_datamodule, make_engine) -> None:
    engine, model = make_engine(max_epochs=1), make_model()
    engine.fit(model, datamodule=make_datamodule())
    engine.fit(model, datamodule=make_datamodule())


def test_a_finished_training_may_be_asked_for_again(make_datamodule, make_engine) -> None:
    """As scripts do that resume whatever there is."""
    engine = make_engine(max_epochs=1)
    engine.fit(make_model(), datamodule=make_datamodule())
    path = engine.trainer.checkpoint_callback.best_model_path
    again = make_model()
    make_engine(max_epochs=1).fit(again, datamodule=make_datamodule(), ckpt_path=path)
    make_engine(max_epochs=2).fit(again, datamodule=make_datamodule(), ckpt_path=path)


@pytest.mark.parametrize("call", ["test", "predict"])
@pytest.mark.parametrize("kind", [make_model, make_restoration, lambda: MemAe(**SMALL), lambda: Mnad(**SMALL)])
def test_what_was_never_trained_judges_nothing(kind, call, make_datamodule, make_engine) -> None:
    model = kind()
    with pytest.raises(ValueError, match=rf"This {type(model).__name__} was never trained.*--ckpt_path"):
        getattr(make_engine(), call)(model, datamodule=make_datamodule())


def test_what_was_trained_elsewhere_judges(make_datamodule, make_engine) -> None:
    engine = make_engine(max_epochs=1, limit_val_batches=0)
    engine.fit(make_model(), datamodule=make_datamodule())
    path = engine.trainer.checkpoint_callback.best_model_path
    assert make_engine().predict(make_model(), datamodule=make_datamodule(), ckpt_path=path)
    assert make_engine().predict(Daad.load_from_checkpoint(path), datamodule=make_datamodule())
    assert make_engine().test(make_model(), datamodule=make_datamodule(), ckpt_path=path)


def test_gradient_clipping_is_refused_in_place_of_dropped(make_datamodule, make_engine) -> None:
    with pytest.raises(MisconfigurationException, match="Automatic gradient clipping is not supported"):
        make_engine(max_epochs=1, gradient_clip_val=1.0).fit(make_model(), datamodule=make_datamodule())


@pytest.mark.parametrize(
    ("transform", "speaks"),
    [
        ([], True),  # [0, 1]
        ([Normalize([0.2] * 3, [0.9] * 3)], True),
        ([Normalize([0.5] * 3, [0.5] * 3)], False),
        ([Normalize([0.45] * 3, [0.5] * 3)], False),
        ([RandomCrop(32), Normalize([0.5] * 3, [0.5] * 3)], False),
    ],
)
def test_images_of_half_the_range_are_said(transform, speaks, make_datamodule, make_engine, caplog) -> None:
    """By what becomes of black, not by the images: pale parts are no fault."""
    pre_processor = PreProcessor(Compose([Resize((32, 32)), *transform]))
    with caplog.at_level(logging.WARNING, run_checks.__name__):
        make_engine(max_steps=2).fit(make_model(pre_processor=pre_processor), datamodule=make_datamodule())
    assert len([record for record in caplog.records if "Black is" in record.message]) == speaks


@pytest.mark.parametrize("low", [-0.9, 0.1])
def test_without_a_pre_processor_the_images_tell(low, caplog) -> None:
    images = torch.linspace(low, 1, 3 * 64).reshape(1, 3, 8, 8)
    with caplog.at_level(logging.WARNING, run_checks.__name__):
        run_checks.warn_if_half_range(None, images, "Daad")
    assert len(caplog.records) == (low > 0)


BAD = {
    "clip": (lambda x: x[:, None].expand(-1, 5, -1, -1, -1), r"video clips of shape \(2, 5, 3, 32, 32\)"),
    "gray": (lambda x: x[:, :1], r"gray ones of shape \(2, 1, 32, 32\)"),
    "half": (lambda x: x.half(), "images of torch.float16"),
    "bfloat16": (lambda x: x.bfloat16(), "images of torch.bfloat16"),
    "double": (lambda x: x.double(), "images of torch.float64"),
    "RGBA": (lambda x: torch.cat([x, x[:, :1]], 1), r"shape \(B, 3, 32, 32\), got \(2, 4, 32, 32\)"),
    "one image": (lambda x: x[0], r"shape \(B, 3, 32, 32\), got \(3, 32, 32\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_images_of_another_kind_are_refused_in_a_sentence(name) -> None:
    spoil, words = BAD[name]
    network = make_model().model.eval()
    images = spoil(torch.rand(2, 3, 32, 32))
    for network_call in (network, network.scores, network.train()):
        with pytest.raises(ValueError, match=words):
            network_call(images)


def test_half_precision_weights_are_refused_in_a_sentence() -> None:
    network = make_model().model.half().eval()
    with pytest.raises(ValueError, match=r"weights are torch.float16.*call float\(\) on the model"):
        network(torch.rand(2, 3, 32, 32).half())

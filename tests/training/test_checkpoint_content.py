# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of another architecture, model or version are refused in one sentence."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models import Padim
from conftest import SMALL_RESTORATION, make_model, make_restoration

from anomalib_daad import Daad, DaadRestoration, MemAe, Mnad
from anomalib_daad.training.checkpoint_content import model_name

TINY = {"image_size": (32, 32), "num_items": 5, "base_channels": 4}


def train(model, make_engine, make_datamodule) -> str:
    engine = make_engine(max_epochs=1)
    engine.fit(model, datamodule=make_datamodule())
    return engine.trainer.checkpoint_callback.best_model_path


@pytest.fixture
def checkpoint(make_datamodule, make_engine) -> str:
    return train(make_model(), make_engine, make_datamodule)


def refuse_everywhere(kind, build, path, sentence: str, make_engine, make_datamodule) -> None:
    """Loading, training, testing and exporting refuse a checkpoint with one sentence."""
    ways = [
        lambda: kind.load_from_checkpoint(path),
        lambda: make_engine(max_epochs=2).fit(build(), datamodule=make_datamodule(), ckpt_path=path),
        lambda: make_engine().test(build(), datamodule=make_datamodule(), ckpt_path=path),
        lambda: make_engine().export(build(), "onnx", ckpt_path=path),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=sentence) as error:
            way()
        assert "\n" not in str(error.value)


def scores(predictions) -> list[float]:
    return [float(score) for batch in predictions for score in batch.pred_score]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gamma": 0.2}, ["gamma=0.9, not 0.2"]),
        ({"num_items": 7}, ["num_items=10, not 7"]),
        ({"adversarial": False, "base_channels": 8}, ["adversarial=True, not False", "base_channels=4, not 8"]),
        ({"division_rates": [1, 1, 1], "connections": "skip"}, ["division_rates=[2, 2, 1]", "connections=memory"]),
    ],
    ids=str,
)
def test_the_checkpoint_decides_what_the_model_is(
    make_datamodule, make_engine, checkpoint, arguments, words, caplog
) -> None:
    expected = scores(make_engine().predict(Daad.load_from_checkpoint(checkpoint), datamodule=make_datamodule()))
    ways = [
        lambda: make_engine().predict(make_model(**arguments), datamodule=make_datamodule(), ckpt_path=checkpoint),
        lambda: make_engine().predict(Daad.load_from_checkpoint(checkpoint, **arguments), datamodule=make_datamodule()),
    ]
    for way in ways:
        caplog.clear()
        np.testing.assert_allclose(scores(way()), expected, atol=1e-6)
        assert all(word in caplog.text for word in words)
    metrics = make_engine().test(Daad.load_from_checkpoint(checkpoint), datamodule=make_datamodule())
    assert make_engine().test(make_model(**arguments), datamodule=make_datamodule(), ckpt_path=checkpoint) == metrics


@pytest.mark.parametrize(
    "arguments", [{"learning_rate": 0.5, "flips": False, "seed": 3}, {"division_rates": [2, 2, 1]}]
)
def test_what_changes_no_score_is_not_spoken_of(make_datamodule, make_engine, checkpoint, arguments, caplog) -> None:
    model = make_model(**arguments)
    make_engine().test(model, datamodule=make_datamodule(), ckpt_path=checkpoint)
    assert "was trained with" not in caplog.text
    assert model.learning_rate == arguments.get("learning_rate", 2e-4)


def test_networks_of_one_shape_that_see_other_images_are_told_apart(make_datamodule, make_engine) -> None:
    """All weights of 64 px by 2 fit 128 px by 4; images were prepared for what was given."""
    path = train(make_restoration(), make_engine, make_datamodule)
    other = make_restoration(image_size=(128, 128), downscale=4)
    words = r'image_size=\(64, 64\), on the command line --model.image_size "\[64, 64\]"'
    for action in ("test", "predict", "validate"):
        with pytest.raises(ValueError, match=words):
            getattr(make_engine(), action)(other, datamodule=make_datamodule(), ckpt_path=path)
    again = DaadRestoration.load_from_checkpoint(path, image_size=(128, 128), downscale=4, placement_radius=0)
    assert again.model.image_size == (64, 64)
    assert again.model.placement.radius == 2
    assert not again.training


def test_checkpoint_of_anomalibs(make_datamodule, make_engine, tmp_path) -> None:
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
    refuse_everywhere(Daad, make_model, path, "another kind of model", make_engine, make_datamodule)


def test_checkpoint_of_another_model_of_ours(make_datamodule, make_engine) -> None:
    mnad = train(Mnad(**TINY), make_engine, make_datamodule)
    sentence = r"^The checkpoint does not fit Daad: it is one of Mnad; load it with Mnad\.$"
    refuse_everywhere(Daad, make_model, mnad, sentence, make_engine, make_datamodule)
    assert isinstance(Mnad.load_from_checkpoint(mnad), Mnad)


@pytest.mark.parametrize("kind", [DaadRestoration, MemAe, Mnad])
def test_daads_checkpoint_in_others(kind, checkpoint) -> None:
    with pytest.raises(ValueError, match=rf"^The checkpoint does not fit {kind.__name__}: it is one of Daad; load it"):
        kind.load_from_checkpoint(checkpoint)


def rewrite(path: str, **changes) -> None:
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    torch.save(content, path)


def test_checkpoint_of_an_older_version(checkpoint, make_engine, make_datamodule) -> None:
    rewrite(checkpoint, anomalib_daad=None, daad_validated=True)
    sentence = r"^The checkpoint was trained by another version of anomalib-daad \(format 1, here 3\).*: train"
    refuse_everywhere(Daad, make_model, checkpoint, sentence, make_engine, make_datamodule)
    with pytest.raises(ValueError, match=sentence):
        DaadRestoration.load_from_checkpoint(checkpoint)


def test_checkpoint_of_a_newer_version(checkpoint) -> None:
    rewrite(checkpoint, anomalib_daad={"format": 4, "model": "Daad", "validated": True, "more": 1})
    with pytest.raises(ValueError, match=r"format 4, here 3"):
        Daad.load_from_checkpoint(checkpoint)


@pytest.mark.parametrize("validated", [True, False])
def test_what_stands_in_a_checkpoint(validated, make_datamodule, make_engine) -> None:
    engine = make_engine(max_epochs=1, **({} if validated else {"limit_val_batches": 0}))
    engine.fit(make_restoration(), datamodule=make_datamodule())
    path = Path(engine.trainer.checkpoint_callback.best_model_path)
    content = torch.load(path, weights_only=True)
    assert content["anomalib_daad"] == {"format": 3, "model": "DaadRestoration", "validated": validated}
    assert model_name(content) == "DaadRestoration"
    assert content["hyper_parameters"].items() >= SMALL_RESTORATION.items()


def test_other_checkpoints_have_no_model_of_ours() -> None:
    assert model_name({}) is None
    assert model_name({"anomalib_daad": None}) is None


def test_a_parent_reads_the_checkpoints_of_a_subclass(make_datamodule, make_engine) -> None:
    class Mine(Daad):
        """A user's own, of the same networks."""

    path = train(Mine(**TINY, division_rates=(2, 2, 1)), make_engine, make_datamodule)
    assert model_name(torch.load(path)) == "Daad"
    assert isinstance(Daad.load_from_checkpoint(path), Daad)


def test_a_damaged_header_is_refused_in_a_sentence(checkpoint, tmp_path) -> None:
    content = torch.load(checkpoint)
    for header in ("Daad", {"model": "Daad"}, None, 3):
        torch.save({**content, "anomalib_daad": header}, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=r"checkpoint"):
            Daad.load_from_checkpoint(tmp_path / "bad.ckpt")


def test_a_subclass_reads_the_checkpoints_of_its_parent(checkpoint) -> None:
    class Mine(Daad):
        """A user's own."""

    assert isinstance(Mine.load_from_checkpoint(checkpoint), Mine)


@pytest.mark.parametrize(("make", "is_same"), [(make_restoration, True), (make_model, False)])
def test_format_2_is_read_where_it_meant_the_same(make, is_same, make_datamodule, make_engine) -> None:
    """Restoration training kept its memories; those of Daad are addressed otherwise since."""
    model, engine = make(), make_engine(max_epochs=1)
    engine.fit(model, datamodule=make_datamodule())
    path = engine.trainer.checkpoint_callback.best_model_path
    content = torch.load(path, weights_only=True)
    rewrite(path, anomalib_daad={**content["anomalib_daad"], "format": 2})
    expectation = nullcontext() if is_same else pytest.raises(ValueError, match=r"format 2, here 3.*train the model")
    with expectation:
        type(model).load_from_checkpoint(path)

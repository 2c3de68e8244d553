# SPDX-License-Identifier: Apache-2.0

"""What a training leaves behind: no image or score of its data, and the process's random numbers as they were."""

import copy
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.data import PredictDataset
from conftest import make_model, make_restoration
from lightning.pytorch.callbacks import Callback

from anomalib_daad import Daad, DaadRestoration, MemAe, Mnad, save_safetensors
from anomalib_daad.registration import MODELS

KINDS = {
    "Daad": make_model,
    "DaadRestoration": make_restoration,
    "MemAe": lambda **arguments: MemAe(image_size=(32, 32), num_items=10, base_channels=4, **{"seed": 0, **arguments}),
    "Mnad": lambda **arguments: Mnad(image_size=(32, 32), base_channels=4, **{"seed": 0, **arguments}),
}


def storages(path: Path) -> list[int]:
    """Bytes of every tensor in a file of PyTorch's, in order of size."""
    with zipfile.ZipFile(path) as archive:
        return sorted(it.file_size for it in archive.infolist() if "/data/" in it.filename)


def tensors(module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that can be reached from a module, however deep."""
    found, seen = {}, set()

    def walk(value, name: str) -> None:
        if id(value) in seen or len(name) > 300:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor | np.ndarray):
            found[name] = tuple(value.shape)
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}.{key}")
        elif isinstance(value, list | tuple | set):
            for index, item in enumerate(value):
                walk(item, f"{name}[{index}]")
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            walk(vars(value), name)

    walk(module, "model")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_data_leaves_with_a_model(kind, make_datamodule, make_engine, tmp_path) -> None:
    model = KINDS[kind]()
    engine = make_engine(max_epochs=2)
    engine.fit(model, datamodule=make_datamodule())
    again = MODELS[kind].load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    files = {}
    for name, it in {"trained": model, "reloaded": again}.items():
        (tmp_path / name).mkdir()
        torch.save(copy.deepcopy(it), tmp_path / name / "copy.pt")
        (tmp_path / name / "pickle.pkl").write_bytes(pickle.dumps(it))
        save_safetensors(it, tmp_path / name / "model.safetensors")
        files[name] = [storages(it.to_torch(tmp_path / name)), storages(tmp_path / name / "copy.pt")]
        files[name] += [(tmp_path / name / "model.safetensors").stat().st_size]
    assert files["trained"] == files["reloaded"]
    shapes = tensors(copy.deepcopy(model))
    height, width = model.model.image_size
    assert not [name for name, shape in shapes.items() if shape[-3:] == (3, height, width)]  # images
    learnt = ("._parameters.", "._buffers.")
    others = {name: shape for name, shape in shapes.items() if not any(part in name for part in learnt)}
    assert not [name for name, shape in others.items() if shape in {(11,), (12,)}]  # scores of the 11 or 12 images


def held(value, name: str = "") -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in what a checkpoint holds."""
    if isinstance(value, torch.Tensor):
        return {name: tuple(value.shape)}
    if isinstance(value, dict):
        parts = [held(item, f"{name}.{key}") for key, item in value.items()]
    else:
        parts = [held(item, f"{name}[]") for item in value] if isinstance(value, list | tuple) else []
    return {key: shape for part in parts for key, shape in part.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_checkpoint_is_accounted_for(kind, make_datamodule, make_engine) -> None:
    """A checkpoint holds the tensors of a model that saw no image, and of optimizers numbers of the weights' shapes."""
    model, fresh = KINDS[kind](), KINDS[kind]().eval()
    engine = make_engine(max_epochs=2)
    engine.fit(model, datamodule=make_datamodule())
    path = engine.trainer.checkpoint_callback.best_model_path
    content = torch.load(path, weights_only=True)
    state = held(content.pop("state_dict"))
    assert {name: shape for name, shape in state.items() if ".model." in name} == {
        name: shape for name, shape in held(dict(fresh.state_dict())).items() if ".model." in name
    }
    weights = {tuple(parameter.shape) for parameter in model.parameters()} | {()}
    others = {name: shape for name, shape in held(content).items() if shape not in weights}
    assert others == {".callbacks.FalseAlarmPostProcessor.good_scores": (1000,)}  # which p-values are read from


def test_every_constant_of_a_graph_is_accounted_for(daad, tmp_path) -> None:
    """The graph of a trained model, in ONNX and in OpenVINO, is that of a model which saw no more than a checkpoint."""
    before = state()
    again = Daad.load_from_checkpoint(daad.checkpoint).to_onnx(tmp_path)
    assert state() == before

    def constants(path: Path) -> list[tuple[object, ...]]:
        named = sorted((constant.name, *constant.dims) for constant in onnx.load(path).graph.initializer)
        operations = openvino.convert_model(path).get_ordered_ops()
        return named + sorted(tuple(it.output(0).shape) for it in operations if it.get_type_name() == "Constant")

    assert constants(daad.onnx) == constants(again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_made_in_training_holds_no_images(kind, make_datamodule, make_engine) -> None:
    class CopyIt(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            del trainer, outputs, batch, batch_idx
            assert pl_module._latest_images is not None
            self.copy = pickle.loads(pickle.dumps(pl_module))

    watch = CopyIt()
    make_engine(max_steps=1, limit_val_batches=0, callbacks=[watch]).fit(KINDS[kind](), datamodule=make_datamodule())
    assert watch.copy._latest_images is None
    assert watch.copy._training_scores is None


def state() -> tuple[object, ...]:
    python, numpy, torchs = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return python, numpy, torchs, os.environ.get("PL_GLOBAL_SEED")


class Fail(Callback):
    def on_train_batch_end(self, *_) -> None:
        msg = "no more"
        raise RuntimeError(msg)


@pytest.mark.parametrize("kind", KINDS)
def test_the_processs_random_numbers_are_left_alone(kind, make_datamodule, make_engine, data_root, tmp_path) -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    before = state()
    model = KINDS[kind]()
    make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())
    assert state() == before
    with pytest.raises(RuntimeError, match="no more"):
        make_engine(max_epochs=1, callbacks=[Fail()]).fit(KINDS[kind](), datamodule=make_datamodule())
    assert state() == before
    engine = make_engine()
    engine.validate(model, datamodule=make_datamodule(), verbose=False)
    engine.test(model, datamodule=make_datamodule(), verbose=False)
    engine.predict(model, dataset=PredictDataset(data_root / "part/test/good"))
    model.to_torch(tmp_path)
    assert state() == before


def test_trainings_without_a_seed_differ(make_datamodule, make_engine) -> None:
    ends = []
    for _ in range(2):
        model = make_model(seed=None)
        make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())
        ends.append(model.model.autoencoder.encoder.scales[0][0].weight.detach())
    assert not torch.equal(*ends)


@pytest.mark.parametrize("kind", [Daad, DaadRestoration])
def test_a_model_in_training_mode_says_so_before_it_learns(kind) -> None:
    model = (make_model if kind is Daad else make_restoration)().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"training mode.*call eval\(\) first"):
        model(torch.rand(2, 3, 40, 48))
    assert all(torch.equal(value, before[key]) or value.isnan().any() for key, value in model.state_dict().items())
    assert model.eval()(torch.rand(2, 3, 40, 48)).pred_score.isfinite().all()

# SPDX-License-Identifier: Apache-2.0

"""Files of strangers: no path runs their code, and none that was changed or damaged is taken."""

import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from anomalib.models import Padim
from conftest import make_model, make_restoration, mutated
from packaging.requirements import Requirement
from safetensors import safe_open

from anomalib_daad import Daad, MemAe, Mnad, load_safetensors, save_safetensors
from anomalib_daad.commands.compare.contestant import Contestant
from anomalib_daad.commands.compare.data import ComparedData
from anomalib_daad.commands.compare.finding import Finding
from anomalib_daad.commands.compare.trained_models import load
from anomalib_daad.commands.compare.trial import Trial
from anomalib_daad.commands.shared.trained_model import load_model

MODELS = {
    "daad_plus": make_model,
    "restoration": make_restoration,
    "memae": lambda: MemAe(image_size=(32, 32), num_items=5, base_channels=4),
    "mnad": lambda: Mnad(image_size=(32, 32), num_items=5, base_channels=4),
}


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_safetensors(make_model(), tmp_path / "model.safetensors")


# Checkpoints.


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def malicious(tmp_path) -> tuple[Path, Path]:
    """A checkpoint that is whole but for one entry, and the file that this entry's code would make."""
    proof, path, model = tmp_path / "code_ran", tmp_path / "model.ckpt", make_model()
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0",
        "code": Code(proof),
    }
    torch.save(checkpoint, path)
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would run
    proof.unlink()
    return path, proof


def test_commands_run_no_code_even_where_the_environment_allows_it(malicious, monkeypatch) -> None:
    path, proof = malicious
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match="is not a Lightning checkpoint"):
        load_model(path)
    contestant = Contestant("Daad", "Daad")
    made = Trial(contestant, ComparedData("part", "MVTecAD", {}), 32, 1, 1, 0, "cpu", True, None, None)
    finding = Finding(made, path.parent, [], np.empty(0), np.empty(0), {}, {}, {})
    with pytest.raises(ValueError, match="something else than weights"):
        load(finding)
    assert not proof.exists()


def test_loading_a_checkpoint_runs_no_code(malicious) -> None:
    path, proof = malicious
    for read in (Daad.load_from_checkpoint, load_model):
        with pytest.raises(ValueError, match=r"is not a Lightning checkpoint \(it holds something else than weights"):
            read(path)
    assert not proof.exists()


@pytest.mark.parametrize("way", ["fit", "validate", "test", "predict", "export"])
def test_the_engine_runs_no_code_even_where_the_environment_allows_it(
    way, malicious, make_engine, make_datamodule, monkeypatch
) -> None:
    path, proof = malicious
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    call = getattr(make_engine(max_epochs=1), way)
    given = {"export_type": "onnx"} if way == "export" else {"datamodule": make_datamodule()}
    with pytest.raises(ValueError, match="something else than weights"):
        call(make_model(), ckpt_path=str(path), **given)
    assert not proof.exists()


# Safetensors.


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_whole(name, make_engine, make_datamodule, tmp_path) -> None:
    model, datamodule = MODELS[name](), make_datamodule()
    engine = make_engine(max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    model.post_processor.image_sensitivity = 0.7
    again = load_safetensors(save_safetensors(model, tmp_path / "model.safetensors"))
    images = torch.rand(3, 3, 48, 40)
    with torch.no_grad():
        first, second = model.eval()(images), again(images)
    assert torch.equal(first.pred_score, second.pred_score)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.pred_label, second.pred_label)
    assert again.post_processor.image_sensitivity == 0.7
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == ["model.safetensors"]


def test_an_uncalibrated_model_comes_back_too(saved) -> None:
    assert load_safetensors(saved).model.score.reconstruction_range.isnan().all()


def rewrite(path: Path, tensors=None, **metadata) -> None:
    """Change a file, as its digest will notice."""
    with safe_open(str(path), "pt") as file:
        known = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        old = file.metadata()
    safetensors.torch.save_file({**known, **(tensors or {})}, path, {**old, **metadata})


def resign(path: Path) -> None:
    """Give a changed file the digest of what it holds now, as whoever knows the format can."""
    from anomalib_daad.safetensors_file import _digest

    with safe_open(str(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
    safetensors.torch.save_file(tensors, path, {**metadata, "sha256": _digest(tensors, metadata)})


KEY = "model.score.reconstruction_range"
WEIGHT = "model.autoencoder.encoder.scales.0.0.weight"


@pytest.mark.parametrize(
    "change", [{"tensors": {KEY: torch.tensor([0.0, 9.0])}}, {"post_processor": "{}"}, {"arguments": "{}"}]
)
def test_a_changed_file_is_refused(change, saved) -> None:
    rewrite(saved, **change)
    with pytest.raises(ValueError, match=r"was changed or damaged after it was saved"):
        load_safetensors(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "1"}, "its format is 1, that of this version 3; train the model again"),
        ({"format": "2"}, "its format is 2"),  # memories were addressed otherwise
        ({"format": "4"}, "its format is 4"),
        ({"format": "x"}, "its format is x"),
        ({"model": "os.system"}, "not a model that this version"),
        ({"arguments": '{"evil": 1}'}, "arguments that Daad does not know: evil"),
        ({"arguments": "{}"}, "does not fit its own description"),
        ({"arguments": '{"num_items": 1000000000000}'}, "does not fit its own description"),
        ({"arguments": '{"num_items": "many"}'}, "does not describe a model that can be built"),
        (
            {"tensors": {WEIGHT: torch.zeros(2)}},
            r"encoder\.scales\.0\.0\.weight is \(torch.float32, \(2,\)\), expected",
        ),
        ({"tensors": {"extra": torch.zeros(2)}}, r"extra is .* expected none"),
        ({"tensors": {WEIGHT: torch.full((4, 3, 4, 4), torch.nan)}}, "NaN or infinite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_even_with_a_right_digest(change, words, saved) -> None:
    rewrite(saved, **change)
    resign(saved)
    with pytest.raises(ValueError, match=words):
        load_safetensors(saved)


def test_a_strange_pre_processor_is_refused(tmp_path) -> None:
    model = make_model(pre_processor=Daad.configure_pre_processor((64, 64)))
    with pytest.raises(ValueError, match="with their own pre-processor can be saved, got Daad with"):
        save_safetensors(model, tmp_path / "model.safetensors")
    words = "Only DaadRestoration, Daad, MemAe, Mnad with their own pre-processor can be saved, got Padim"
    with pytest.raises(ValueError, match=words):
        save_safetensors(Padim(pre_trained=False, backbone="resnet18"), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


# Damage at random.


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_or_whole(seed, saved) -> None:
    chance, content = random.Random(seed), saved.read_bytes()
    right = load_safetensors(saved).state_dict()
    for _ in range(50):
        saved.write_bytes(mutated(content, chance))
        try:
            state = load_safetensors(saved).state_dict()
        except ValueError:
            continue
        assert all(torch.equal(value, right[key]) or value.isnan().any() for key, value in state.items())


# Dependencies.


def test_known_bad_releases_are_excluded() -> None:
    """Lightning that stole credentials, PyTorch that ran code, Pillow that wrote out of bounds."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    ranges = {it.name: it.specifier for it in map(Requirement, project["dependencies"])}
    cases = (("lightning", "2.6.2 2.6.3", "2.6.6"), ("torch", "2.5.1", "2.14.1"), ("pillow", "12.2", "13.0"))
    for name, bad, good in cases:
        assert not any(ranges[name].contains(release) for release in bad.split())
        assert ranges[name].contains(good)

# SPDX-License-Identifier: Apache-2.0

"""The speed benchmark counts, times and compares what it says it does."""

import csv
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import nn

from anomalib_daad import Daad
from anomalib_daad.commands.command_line import main
from anomalib_daad.commands.shared.output_folder import read_table, write_table
from anomalib_daad.commands.speed import (
    benchmark,
    inference,
    limit,
    peers,
    report,
    runtimes,
    timing,
    training,
    training_parts,
)
from anomalib_daad.commands.speed.benchmark import speed
from anomalib_daad.models.daad.torch_model import DaadModel

SMALL = {"image_size": (32, 32), "division_rates": (2, 2, 1), "num_items": 10, "base_channels": 4}


def test_operations_and_bytes_are_those_of_the_formulas() -> None:
    convolution = nn.Conv2d(3, 8, 4, 2, 1)
    images = torch.randn(2, 3, 16, 16)
    operations, traffic = limit.count_work(lambda: convolution(images))
    assert operations == 2 * (2 * 8 * 8 * 8) * (3 * 4 * 4)  # multiply-adds of each of the outputs
    assert traffic == 4 * (2 * 3 * 16 * 16 + 8 * 3 * 4 * 4 + 8 + 2 * 8 * 8 * 8)
    left, right = torch.randn(5, 7), torch.randn(7, 11)
    assert limit.count_work(lambda: (left @ right).relu()) == (2 * 5 * 7 * 11, 4 * (5 * 7 + 7 * 11 + 5 * 11))


def test_rates_are_those_of_a_clock(monkeypatch) -> None:
    monkeypatch.setattr(limit, "_fastest", lambda call, _: call() is not None and 0.5)
    assert limit.matrix_multiply_rate(torch.float32, "cpu") == 2 * 4096**3 / 0.5
    assert limit.copy_bandwidth("cpu") == 2 * 2**28 / 0.5


def test_candidates_are_timed_in_turn(monkeypatch) -> None:
    order, clock = [], iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    times = timing.interleave({name: lambda name=name: order.append(name) for name in "ab"}, 0.0, "title")
    assert order == ["a", "b"] * 4  # one round of warm-up, three that count
    assert times["a"].tolist() == times["b"].tolist() == [1.0, 1.0, 1.0]


def test_summary_is_the_median_and_the_quartiles() -> None:
    summary = timing.summarize(np.array([0.004, 0.001, 0.002, 0.100, 0.003]))
    assert summary == {"ms": 3.0, "ms_q25": 2.0, "ms_q75": 4.0, "rounds": 5}


def test_peers_have_the_shapes_that_training_gives_them() -> None:
    size, count = 64, 4
    images = torch.rand(count, 3, size, size)
    trained = PatchcoreModel(layers=["layer2", "layer3"], backbone="wide_resnet50_2", pre_trained=False).train()
    trained(images)
    trained.subsample_embedding(peers.CORESET_RATIO)
    assert peers.build("PatchCore", size, count).memory_bank.shape == trained.memory_bank.shape

    padim = PadimModel(backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False).train()
    padim(images)
    padim.fit()
    built = peers.build("PaDiM", size, count)
    assert built.gaussian.mean.shape == padim.gaussian.mean.shape
    assert built.gaussian.inv_covariance.shape == padim.gaussian.inv_covariance.shape


@pytest.mark.parametrize("name", sorted(set(peers.MODELS) - {"PatchCore"}))
def test_peers_score_images(name) -> None:
    size = 256 if name == "EfficientAD-S" else 128  # the smallest that it takes
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert len(peers.build(name, size)(images).pred_score) == 1


def test_restoration_is_timed_in_all_ways_of_finding_parts() -> None:
    plain, registered, searched = (
        peers.build(f"DaadRestoration{kind}", 256) for kind in ("", ", registered", ", searched")
    )
    assert plain.registration is plain.placement is registered.placement is searched.registration is None
    assert registered.registration.is_known
    assert searched.placement.is_known


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Iterator[tuple[DaadModel, torch.Tensor]]:
    """A model and images; its export, which takes seconds, serves all runtimes."""
    torch.manual_seed(0)
    export, kept = runtimes.to_onnx, tmp_path_factory.mktemp("exported") / "kept"

    def once(model: nn.Module, images: torch.Tensor, path: Path) -> None:
        if not kept.exists():
            export(model, images, path)
            shutil.copytree(path.parent, kept)
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "to_onnx", once)
        yield DaadModel(**SMALL).eval(), torch.rand(2, 3, 32, 32) * 2 - 1


@pytest.mark.parametrize("runtime", ["onnx", "openvino-f32", "openvino", "openvino-int8"])
def test_runtimes_compute_the_same(runtime, exported) -> None:
    pytest.importorskip("nncf")
    model, images = exported
    expected = model(images)
    result = runtimes.load(runtime, model, images)()
    score, anomaly_map = result if runtime == "onnx" else result.values()
    tolerance = 1e-4 if runtime in {"onnx", "openvino-f32"} else 0.05
    np.testing.assert_allclose(score.squeeze(), expected.pred_score, rtol=tolerance)
    np.testing.assert_allclose(anomaly_map, expected.anomaly_map, rtol=tolerance, atol=tolerance)


def test_steps_train_the_model() -> None:
    """What is timed learns: the loss falls, in the plain version as in the fast one."""
    images = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    torch.manual_seed(0)
    for step in (training._daad(images, True, None), training._plain(images)):
        losses = [float(step()) for _ in range(6)]
        assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("part", ["encoder", "memory", "decoder", "discriminator"])
def test_every_part_of_a_training_pass_is_timed(part) -> None:
    model = Daad(**SMALL)
    stopwatch = training_parts._Stopwatch("cpu")
    training_parts._TimeParts(stopwatch, 0).on_fit_start(None, model)
    model.losses(torch.rand(2, 3, 32, 32))
    assert stopwatch.seconds[f"{part}, forward"] > 0


def test_growth_has_a_row_for_each_point(monkeypatch, tmp_path) -> None:
    calls = []
    monkeypatch.setattr(peers, "build", lambda name, *sizes: calls.append((name, *sizes)) or nn.Identity())
    monkeypatch.setattr(inference, "DaadModel", lambda size, num_items: calls.append((size, num_items)) or nn.ReLU())
    monkeypatch.setattr(inference, "for_inference", lambda model: model)
    rows = inference.grow(0.0, "cpu", sizes=(128, 256))
    assert ("DaadRestoration, registered", 128) in calls
    assert ((256, 256), 4000) in calls
    assert ("PatchCore", 256, 800) in calls
    assert {row["curve"] for row in rows} == {"image size", "memory items", "training images"}
    report.plot_growth(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_table_round_trip(tmp_path) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "c": None}]
    write_table(rows, tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv") == [{"a": "1", "b": "x", "c": ""}, {"a": "2", "b": "", "c": ""}]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert report.to_markdown(rows) == "| a | b | c |\n| --- | --- | --- |\n| 1 | x |  |\n| 2 |  |  |\n"


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limit, "matrix_multiply_rate", lambda *_: 2e9)
    monkeypatch.setattr(limit, "copy_bandwidth", lambda _: 3e9)
    monkeypatch.setattr(benchmark, "computes_bfloat16", lambda _: True)
    chosen = {"models": ["DAAD"], "runtimes": ["torch"], "image_size": 128, "batch_sizes": [1], "seconds": 0.0}
    monkeypatch.setattr(inference, "share", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        speed(tmp_path, parts=["limit", "inference", "inference_parts"], **chosen)
    first = (tmp_path / "inference.csv").read_text()
    with (tmp_path / "limit.csv").open() as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == [2.0, 2.0, 3.0]

    monkeypatch.setattr(inference, "share", lambda *_: [{"part": "whole"}])
    speed(tmp_path, parts=["limit", "inference", "inference_parts"], **chosen)
    assert (tmp_path / "inference.csv").read_text() == first
    text = (tmp_path / "speed.md").read_text()
    assert "| whole |" in text
    assert "## growth\n\nNot measured." in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"runtimes": ["tensorrt"]}, ["tensorrt", "openvino-int8"]),
        ({"device": "cuda"}, ["CUDA", "--device cpu"]),
        ({"device": "tpu"}, ["tpu", "cuda"]),
        ({"models": ["Resnet"]}, ["Resnet", "PatchCore"]),
        ({"parts": ["all"]}, ["all", "inference"]),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, words) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=words[0]) as error:
        speed(tmp_path / "out", **arguments)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_a_missing_openvino_is_one_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"openvino is not installed.*anomalib-daad\[openvino\]"):
        speed(tmp_path, runtimes=["openvino"])


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", "speed", "--output", str(tmp_path), "--runtimes", "[nosuch]"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.strip().splitlines()[-1].startswith("anomalib-daad: error: Unknown runtime nosuch; choose")
    assert "Traceback" not in said

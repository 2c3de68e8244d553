# SPDX-License-Identifier: Apache-2.0

"""Precision of the training: bfloat16 only where the processor computes in it."""

import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from lightning.pytorch.callbacks import Callback

from anomalib_daad.commands.speed import benchmark, limit, training
from anomalib_daad.components.precision import computes_bfloat16


class WatchAutocast(Callback):
    """Records what a network computes in while it trains."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()

    def on_train_start(self, _, model) -> None:
        model.model.autoencoder.encoder.scales[0][0].register_forward_hook(self._watch)

    def _watch(self, _, __, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self.dtypes.add(output.dtype)


@pytest.mark.parametrize(
    ("asked", "emulated", "expected"),
    [
        ("bf16-mixed", True, torch.float32),
        ("bf16-mixed", False, torch.bfloat16),
        ("32-true", True, torch.float32),
    ],
)
def test_training_avoids_emulated_bfloat16(
    make_datamodule, make_engine, monkeypatch, caplog, asked, emulated, expected
) -> None:
    monkeypatch.setattr("anomalib_daad.training.precision.computes_bfloat16", lambda _: not emulated)
    watch = WatchAutocast()
    engine = make_engine(max_steps=2, max_epochs=-1, precision=asked, callbacks=[watch])
    engine.fit(make_model(), datamodule=make_datamodule())
    assert watch.dtypes == {expected}
    assert ("emulates bfloat16" in caplog.text) == (emulated and asked == "bf16-mixed")


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="needs x86-64 Linux")
def test_bfloat16_is_emulated_without_avx512() -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert computes_bfloat16("cpu") == ({"avx512bw", "avx512vl", "avx512dq"} <= set(flags))
    assert computes_bfloat16("cuda:0")


@pytest.mark.parametrize("emulated", [True, False])
def test_the_speed_benchmark_leaves_out_emulated_bfloat16(monkeypatch, emulated) -> None:
    for module in (benchmark, training):
        monkeypatch.setattr(module, "computes_bfloat16", lambda _: not emulated)
    monkeypatch.setattr(limit, "matrix_multiply_rate", lambda _, __: 1.0)
    monkeypatch.setattr(limit, "copy_bandwidth", lambda _: 1.0)
    monkeypatch.setattr(training.timing, "interleave", lambda steps, *_: {name: np.ones(1) for name in steps})
    timed = [row["model"] for row in training.compare(128, 2, 0.0, "cpu")]
    limits = [row["what"] for row in benchmark._limits("cpu")]
    assert any("bfloat16" in what for what in limits) is not emulated
    assert any("bf16" in name for name in timed) is not emulated
    assert "DAAD+, f32" in timed

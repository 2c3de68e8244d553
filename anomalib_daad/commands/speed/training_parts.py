# SPDX-License-Identifier: Apache-2.0

"""Where the time of Daad's training goes, part by part, through anomalib's Engine."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image
from torch import nn

from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.models.daad.lightning_model import Daad

Row = dict[str, Any]


class _Stopwatch:
    """Adds up the time between hooks by the name of a part."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    def start(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.last = time.perf_counter()

    def stop(self, part: str) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


class _TimeParts(Callback):
    """Times the parts of a training through the Engine, after some steps of warm-up."""

    def __init__(self, stopwatch: _Stopwatch, warm_up: int) -> None:
        self.stopwatch = stopwatch
        self.warm_up = warm_up
        self.steps = 0
        self.begin = 0.0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        del trainer
        model, watch = pl_module.model, self.stopwatch
        parts: list[tuple[str, nn.Module]] = [
            ("encoder", model.autoencoder.encoder),
            ("decoder", model.autoencoder.decoder),
        ]
        if model.discriminator is not None:
            parts.append(("discriminator", model.discriminator))
        for part, module in parts:
            module.register_forward_pre_hook(lambda *_: watch.stop("other"))
            module.register_forward_hook(lambda *_, part=part: watch.stop(f"{part}, forward"))
        for memory in model.autoencoder.memories:
            memory.read = self._timed(memory.read)  # in training memories are read, not called, and hooks stay silent

    def _timed(self, read: Callable[[torch.Tensor], MemoryRead]) -> Callable[[torch.Tensor], MemoryRead]:
        def timed(features: torch.Tensor) -> MemoryRead:
            self.stopwatch.stop("other")
            result = read(features)
            self.stopwatch.stop("memory, forward")
            return result

        return timed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del trainer, pl_module, batch, batch_idx
        self.steps += 1
        if self.steps == self.warm_up + 1:
            self.stopwatch.seconds.clear()
            self.begin = time.perf_counter()
        self.stopwatch.stop("data and host code")

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        del trainer, pl_module, optimizer
        self.stopwatch.stop("other")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        del trainer, pl_module
        self.stopwatch.stop("backward")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        del trainer, pl_module, outputs, batch, batch_idx
        self.stopwatch.stop("optimizers")


def time_parts(size: int, batch_size: int, device: str, epoch: int = 26, epochs: int = 2) -> list[Row]:
    """Train DAAD+ through anomalib's Engine on PNG files and time its parts.

    Args:
        size (int): Height and width of the model's images; the files are of 256 pixels.
        batch_size (int): Images a step.
        device (str): ``"cpu"`` or ``"cuda"``.
        epoch (int): Steps of an epoch. Defaults to ``26``, as with bottle.
        epochs (int): Epochs that count, after a first one that reads the files. Defaults to ``2``.

    Returns:
        list[Row]: One row a part: milliseconds a step and share. ``data and host code`` is all between two steps.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        (Path(folder) / "good").mkdir()
        for index in range(epoch * batch_size):
            noise = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC).save(f"{folder}/good/{index}.png")
        datamodule = Folder(
            "speed",
            root=folder,
            normal_dir="good",
            train_batch_size=batch_size,
            num_workers=0,
            test_split_mode="none",
            val_split_mode="none",
        )
        timer = _TimeParts(_Stopwatch(device), epoch)
        engine = Engine(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_epochs=1 + epochs,
            precision="bf16-mixed",
            limit_val_batches=0,
            default_root_dir=folder,
            callbacks=[timer],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        engine.fit(Daad((size, size), seed=0), datamodule=datamodule)
    steps = epoch * epochs
    total = sum(timer.stopwatch.seconds.values())
    for part, seconds in timer.stopwatch.seconds.items():
        rows.append({"part": part, "size": size, "batch_size": batch_size, "ms": round(1e3 * seconds / steps, 2)})
        rows[-1]["share"] = round(seconds / total, 3)
    rows.append(
        {"part": "whole", "size": size, "batch_size": batch_size, "ms": round(1e3 * total / steps, 2), "share": 1.0}
    )
    return rows

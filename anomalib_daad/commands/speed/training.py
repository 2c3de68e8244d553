# SPDX-License-Identifier: Apache-2.0

"""Training side by side: one step of each model on one batch, without data loading, and Daad's own parts.

``DAAD+ plain`` is DAAD+ as one would first write it, the yardstick of what was done for speed: float32, NCHW memory,
PyTorch's default Adam, and two further passes of the discriminator.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.engine import Engine
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.ganomaly.loss import DiscriminatorLoss as GanomalyDiscriminatorLoss
from anomalib.models.image.ganomaly.loss import GeneratorLoss as GanomalyGeneratorLoss
from lightning.pytorch import Callback
from PIL import Image
from torch import nn

from anomalib_daad.components.block_memory import MemoryRead
from anomalib_daad.components.precision import computes_bfloat16
from anomalib_daad.models.daad.lightning_model import Daad
from anomalib_daad.models.daad.loss import DiscriminatorLoss, GeneratorLoss
from anomalib_daad.models.daad.torch_model import DaadModel
from anomalib_daad.training import CompileNetworks

from . import peers, timing

SMALLEST_EFFICIENT_AD = 256  # its autoencoder takes no smaller images
Row = dict[str, Any]
Step = Callable[[], object]


def _daad(images: torch.Tensor, adversarial: bool, dtype: torch.dtype | None, compiled: bool = False) -> Step:
    model = Daad((images.shape[-2], images.shape[-1]), adversarial=adversarial, seed=0).to(images.device).train()
    if compiled:
        CompileNetworks().on_fit_start(None, model)  # type: ignore[arg-type]  # no trainer is asked
    optimizers = model.configure_optimizers()
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> torch.Tensor:
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            losses = model.losses(images).losses
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward(inputs=optimizer.param_groups[0]["params"], retain_graph=loss is not losses[-1])
        for optimizer in optimizers:
            optimizer.step()
        return losses[0].detach()

    return step


def _plain(images: torch.Tensor) -> Step:
    torch.manual_seed(0)
    model: Any = DaadModel((images.shape[-2], images.shape[-1])).to(images.device).train()
    discriminator = model.discriminator
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4) for net in (model.autoencoder, discriminator)]
    generator_loss, discriminator_loss = GeneratorLoss(), DiscriminatorLoss()

    def step() -> torch.Tensor:
        reconstructions = model.autoencoder(images)
        terms = generator_loss(images, reconstructions, discriminator(images), discriminator(reconstructions))
        optimizers[0].zero_grad()
        terms.total.backward()
        optimizers[0].step()
        real, fake = discriminator(images), discriminator(reconstructions.detach())
        optimizers[1].zero_grad()
        discriminator_loss(real.logits, fake.logits).backward()
        optimizers[1].step()
        return terms.total.detach()

    return step


def _draem(images: torch.Tensor) -> Step:
    model = peers.build("DRAEM", images.shape[-1]).to(images.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    augment, loss_function = PerlinAnomalyGenerator(blend_factor=(0.1, 1.0)), DraemLoss()

    def step() -> None:
        augmented, mask = augment(images)
        reconstruction, prediction = model(augmented)
        optimizer.zero_grad()
        loss_function(images, reconstruction, mask, prediction).backward()
        optimizer.step()

    return step


def _ganomaly(images: torch.Tensor) -> Step:
    model = peers.build("GANomaly", images.shape[-1]).to(images.device).train()
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4) for net in (model.discriminator, model.generator)]
    generator_loss, discriminator_loss = GanomalyGeneratorLoss(), GanomalyDiscriminatorLoss()

    def step() -> None:
        padded, fake, latent_i, latent_o = model(images)
        real_features, _ = model.discriminator(padded)
        fake_features, _ = model.discriminator(fake)
        optimizers[1].zero_grad()
        loss = generator_loss(latent_i, latent_o, padded, fake, real_features, fake_features)
        loss.backward(retain_graph=True)
        optimizers[1].step()
        fake_features, _ = model.discriminator(fake.detach())
        optimizers[0].zero_grad()
        discriminator_loss(real_features, fake_features).backward()
        optimizers[0].step()

    return step


def _efficient_ad(images: torch.Tensor) -> Step:
    model = peers.build("EfficientAD-S", images.shape[-1]).to(images.device).train()
    optimizer = torch.optim.Adam([*model.student.parameters(), *model.ae.parameters()], lr=1e-4, weight_decay=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        sum(model(batch=images, batch_imagenet=images)).backward()
        optimizer.step()

    return step


def compare(size: int, batch_size: int, seconds: float, device: str) -> list[Row]:
    """Time one training step of each model, interleaved.

    Args:
        size (int): Height and width of the images.
        batch_size (int): Images a step.
        seconds (float): Time for all rounds.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        list[Row]: One row a model: milliseconds a step, images a second, and ratios to the plain DAAD+ and to DRAEM;
        none in bfloat16 where that is emulated.
    """
    torch.manual_seed(0)
    images = torch.rand(batch_size, 3, size, size, device=device)
    signed = images * 2 - 1
    steps: dict[str, Step] = {}
    if computes_bfloat16(device):
        steps = {
            "DAAD+, bf16": _daad(signed, True, torch.bfloat16),
            "DAAD, bf16": _daad(signed, False, torch.bfloat16),
        }
    steps |= {
        "DAAD+, f32": _daad(signed, True, None),
        "DAAD+ plain, f32": _plain(signed),
        "DRAEM": _draem(images),
        "GANomaly": _ganomaly(signed),
    }
    if size >= SMALLEST_EFFICIENT_AD:
        steps["EfficientAD-S"] = _efficient_ad(images)
    times = timing.interleave(steps, seconds, "training steps")
    rows: list[Row] = []
    for name, values in times.items():
        summary = timing.summarize(values)
        rows.append({"model": name, "size": size, "batch_size": batch_size, **summary})
        rows[-1]["images_per_second"] = round(1e3 * batch_size / summary["ms"], 2)
    rates = {row["model"]: row["images_per_second"] for row in rows}
    for row in rows:
        row["times_plain"] = round(row["images_per_second"] / rates["DAAD+ plain, f32"], 2)
        row["times_draem"] = round(row["images_per_second"] / rates["DRAEM"], 2)
    return rows


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


def share(size: int, batch_size: int, device: str, epoch: int = 26, epochs: int = 2) -> list[Row]:
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


def steps_per_second(sizes: Sequence[int], batch_size: int, seconds: float, device: str) -> list[Row]:
    """Time DAAD+'s training step at several image sizes, and what 1000 epochs of 209 images would take.

    On a GPU both with and without ``torch.compile``; in bfloat16, and in float32 where that is emulated.

    Args:
        sizes (Sequence[int]): Heights and widths.
        batch_size (int): Images a step.
        seconds (float): Time for each size.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        list[Row]: One row a size, on a GPU two.
    """
    rows: list[Row] = []
    dtype = torch.bfloat16 if computes_bfloat16(device) else None
    for size in sizes:
        images = torch.rand(batch_size, 3, size, size, device=device) * 2 - 1
        choices = {"no": False, "yes": True} if device == "cuda" else {"no": False}
        steps = {name: _daad(images, True, dtype, compiled) for name, compiled in choices.items()}
        for name, values in timing.interleave(steps, seconds, f"steps at {size} px").items():
            summary = timing.summarize(values)
            row: Row = {"size": size, "batch_size": batch_size, "compiled": name, **summary}
            row["steps_per_second"] = round(1e3 / summary["ms"], 2)
            rows.append(row | {"minutes_of_1000_epochs": round(1000 * -(-209 // batch_size) * summary["ms"] / 60e3, 1)})
    return rows

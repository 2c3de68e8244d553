# SPDX-License-Identifier: Apache-2.0

"""Training side by side: one step of each model on one batch, without data loading.

``DAAD+ plain`` is DAAD+ as one would first write it, the yardstick of what was done for speed: float32, NCHW memory,
PyTorch's default Adam, and two further passes of the discriminator.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.ganomaly.loss import DiscriminatorLoss as GanomalyDiscriminatorLoss
from anomalib.models.image.ganomaly.loss import GeneratorLoss as GanomalyGeneratorLoss

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

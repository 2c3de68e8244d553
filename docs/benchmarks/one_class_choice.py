# SPDX-License-Identifier: Apache-2.0

"""Which memory suits one class of MNIST: short trainings, judged on training images alone.

Of the class's training images the last 500 are held out; 1500 training images of other classes are the anomalies. Test
images are not read. A training lasts so many seconds, whatever its steps; with the decay, its learning rate falls
linearly to 2%.

Example:
    python docs/benchmarks/one_class_choice.py --data mnist.npz --output docs/benchmarks/papers/one_class_choice.csv
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from anomalib_daad import Daad
from anomalib_daad.output_folder import write_table

HELD_OUT, OTHERS, BATCH = 500, 1500, 64
GLOBAL: dict[str, Any] = {"division_rates": (1, 1, 1)}
SHARP: dict[str, Any] = {"temperature": 0.05, "renormalize": True}
BOTTLENECK: dict[str, Any] = {"connections": "bottleneck_memory", "num_scales": 5}
PLAIN: dict[str, Any] = {"adversarial": False}
FAST: dict[str, Any] = {"learning_rate": 1e-3}
# Name: digit, seconds, decay of the learning rate, arguments.
VARIANTS: dict[str, tuple[int, float, bool, dict[str, Any]]] = {
    "DAAD, r = 1, N = 500": (8, 60, False, {**GLOBAL, **PLAIN}),
    "DAAD, r = 2, N = 500": (8, 60, False, {"division_rates": (2, 2, 1), **PLAIN}),
    "DAAD, r = 4, N = 500": (8, 60, False, {"division_rates": (4, 4, 1), **PLAIN}),
    "DAAD, r = 1, N = 500, fast": (8, 60, True, {**GLOBAL, **PLAIN, **FAST}),
    "DAAD, r = 1, N = 50, fast, sharp": (8, 60, True, {**GLOBAL, **SHARP, **PLAIN, **FAST, "num_items": 50}),
    "DAAD, r = 1, N = 16, fast": (8, 60, True, {**GLOBAL, **PLAIN, **FAST, "num_items": 16}),
    "DAAD, r = 1, N = 16, fast, sharp": (8, 60, True, {**GLOBAL, **SHARP, **PLAIN, **FAST, "num_items": 16}),
    "bottleneck, r = 1, N = 50, fast": (8, 60, True, {**GLOBAL, **BOTTLENECK, **PLAIN, **FAST, "num_items": 50}),
    "bottleneck, r = 1, N = 50, fast, sharp": (
        8,
        60,
        True,
        {**GLOBAL, **BOTTLENECK, **SHARP, **PLAIN, **FAST, "num_items": 50},
    ),
    "DAAD+, r = 1, N = 16, fast": (8, 100, True, {**GLOBAL, **FAST, "num_items": 16}),
    "DAAD+, r = 1, N = 16, fast, sharp": (8, 100, True, {**GLOBAL, **SHARP, **FAST, "num_items": 16}),
    "DAAD+, r = 1, N = 16, fast, digit 2": (2, 100, True, {**GLOBAL, **FAST, "num_items": 16}),
    "DAAD+, r = 1, N = 16, fast, sharp, digit 2": (2, 100, True, {**GLOBAL, **SHARP, **FAST, "num_items": 16}),
}


def prepare(images: np.ndarray) -> torch.Tensor:
    """Digits of 28 pixels as the datamodule gives them: 32 pixels, three channels, in [-1, 1]."""
    scaled = torch.from_numpy(images)[:, None].float() / 127.5 - 1
    resized = interpolate(scaled, size=(32, 32), mode="bilinear", antialias=True)
    return resized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def measure(model: Daad, images: torch.Tensor, labels: np.ndarray) -> dict[str, float | None]:
    """Image AUROC of R, L and their sum with the paper's weights, and the mean R of good images."""
    model.eval()
    with torch.no_grad():
        scores = [model.model.scores(part) for part in images.split(250)]
    reconstruction = torch.cat([part.reconstruction for part in scores]).numpy()
    row: dict[str, float | None] = {"R": roc_auc_score(labels, reconstruction), "L": None, "fused": None}
    if model.model.discriminator is not None:
        alignment = torch.cat([part.alignment for part in scores]).numpy()
        scaled = [(part - part.min()) / (part.max() - part.min()) for part in (reconstruction, alignment)]
        row |= {
            "L": roc_auc_score(labels, alignment),
            "fused": roc_auc_score(labels, 0.9 * scaled[0] + 0.1 * scaled[1]),
        }
    return row | {"R_of_good": float(reconstruction[~labels].mean())}


def train(model: Daad, images: torch.Tensor, seconds: float, decay: bool) -> int:
    """Train for so long; the number of steps."""
    optimizers = model.configure_optimizers()
    parameters = [optimizer.param_groups[0]["params"] for optimizer in optimizers]
    model.train()
    start, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = model.learning_rate * (max(0.02, 1 - spent / seconds) if decay else 1)
        with torch.autocast("cpu", torch.bfloat16):
            _, losses = model.losses(images[torch.randint(len(images), (BATCH,))])
        gradients = [
            torch.autograd.grad(loss, group, retain_graph=loss is not losses[-1])
            for loss, group in zip(losses, parameters, strict=True)
        ]
        for optimizer, group, of_group in zip(optimizers, parameters, gradients, strict=True):
            for parameter, gradient in zip(group, of_group, strict=True):
                parameter.grad = gradient
            optimizer.step()
        steps += 1
    return steps


def main() -> None:
    """Train all variants, one row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    data = np.load(arguments.data)
    rows = []
    for name, (digit, seconds, decay, variant) in VARIANTS.items():
        torch.manual_seed(0)
        is_digit = data["y_train"] == digit
        others = np.random.default_rng(0).choice(np.flatnonzero(~is_digit), OTHERS, replace=False)
        good = data["x_train"][is_digit]
        judged = prepare(np.concatenate([good[-HELD_OUT:], data["x_train"][others]]))
        labels = np.arange(HELD_OUT + OTHERS) >= HELD_OUT
        settings = {"num_scales": 3, "base_channels": 32, **variant}
        model = Daad(image_size=(32, 32), flips=False, seed=0, visualizer=False, evaluator=False, **settings)
        steps = train(model, prepare(good[:-HELD_OUT]), seconds, decay)
        values = measure(model, judged, labels)
        measured = {key: None if value is None else round(value, 4) for key, value in values.items()}
        rows.append({"variant": name, "digit": digit, "seconds": seconds, "steps": steps, **measured})
        print(rows[-1], flush=True)
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""How many operations a training step and an image take, which is what small networks cost a GPU.

Views are not counted. ``compiled`` is what ``torch.compile`` leaves of an image's: fused kernels, and calls of others,
as of convolutions. A configuration's model with 8 channels, since width changes no number. Corruptions are drawn:
means of ten steps.

Example:
    python benchmarks/restoration/operations.py --output operations.csv configs/daad_restoration.yaml
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lightning.pytorch import Trainer
from torch._inductor import metrics
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_daad import DaadRestoration
from anomalib_daad.commands.shared.output_folder import Row, write_table
from anomalib_daad.models.daad_restoration import lightning_model
from anomalib_daad.training.reconstruction_training import TrainingLosses

STEPS = 10
CHANNELS = 8
BATCH = 8


class Count(TorchDispatchMode):
    """Counts what makes a new tensor or changes one."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        del types
        returned = function._schema.returns  # noqa: SLF001
        is_view = any(it.alias_info and not it.alias_info.is_write for it in returned)
        self.operations += not is_view
        return function(*args, **(kwargs or {}))


def count_step(model: DaadRestoration, images: torch.Tensor, optimizer: torch.optim.Optimizer) -> Counter[str]:
    """Count the operations of each part of a training step."""
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[[], Any]) -> Any:
        with Count() as count:
            result = call()
        counts[name] += count.operations
        return result

    moved = counted("movements", lambda: lightning_model.random_shifts(images, model.model.downscale // 2))
    score = model._scores_of_good  # noqa: SLF001
    with (
        patch.object(model, "_scores_of_good", lambda *arguments: counted("scores", lambda: score(*arguments))),
        patch.object(lightning_model, "random_shifts", lambda images, most: images),  # noqa: ARG005  # counted above
    ):
        losses: TrainingLosses = counted("losses and scores", lambda: model.losses(moved))
    counted("backward", losses.losses[0].backward)
    counted("optimizer", optimizer.step)
    optimizer.zero_grad()
    return counts


def count_compiled(inference: Any, images: torch.Tensor) -> int:
    """Count the kernels that a compiled network launches."""
    torch._dynamo.reset()  # noqa: SLF001
    metrics.reset()
    _, code = run_and_get_code(torch.compile(inference), images)
    calls = code[0][code[0].index("def call(") :]
    return metrics.generated_kernel_count + len(re.findall(r"extern_kernels\.|torch\.ops\.(?:aten|mk)\S*\(", calls))


def main() -> None:
    """Write one row a configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for path in arguments.configurations:
        options = yaml.safe_load(path.read_text())["model"].get("init_args", {})
        torch.manual_seed(0)
        model = DaadRestoration(**{**options, "base_channels": CHANNELS})
        model.trainer = Trainer(max_steps=STEPS, logger=False, enable_checkpointing=False)
        images = torch.rand(BATCH, 3, *model.model.image_size) * 2 - 1
        (optimizer,), _ = model.configure_optimizers()
        count_step(model, images, optimizer)  # the first step builds the optimizer's state
        total = sum((count_step(model, images, optimizer) for _ in range(STEPS)), Counter())
        row: Row = {"configuration": path.stem, **{name: round(value / STEPS) for name, value in total.items()}}
        row["step"] = sum(row[name] for name in total if name != "scores")
        network = model.model
        for name, recall, growth in (
            ("image", 0.0, 1.0),
            ("image_registered", 1.0, 1.0),
            ("image_searched", 0.0, 10.0),
        ):
            network.registration.recall.fill_(recall)
            network.registration.likeness.fill_(recall)
            network.placement.growth.fill_(growth)
            inference = model.inference_model()
            with torch.no_grad(), Count() as count:
                inference(images[:1])
            row[name] = count.operations
            with torch.no_grad():
                row[f"{name}_compiled"] = count_compiled(inference, images[:1])
        rows.append(row)
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

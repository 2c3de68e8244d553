# SPDX-License-Identifier: Apache-2.0

"""All parts of the speed benchmark, each a table of its own."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich import print as rich_print

from anomalib_daad.commands.shared.machine import describe_machine
from anomalib_daad.commands.shared.output_folder import Row, read_table, write_table
from anomalib_daad.components.precision import computes_bfloat16

from . import inference, limit, peers, report, runtimes, training, training_parts

PARTS = (
    "limit",
    "training",
    "training_parts",
    "recipe",
    "inference",
    "inference_parts",
    "openvino_parts",
    "growth",
    "size",
)


def speed(
    output: Path = Path("speed"),
    device: str = "cpu",
    parts: list[str] = list(PARTS),  # noqa: B006
    models: list[str] = list(peers.MODELS),  # noqa: B006
    runtimes: list[str] = list(runtimes.RUNTIMES),  # noqa: B006
    image_size: int = 256,
    batch_sizes: list[int] = [1, 8],  # noqa: B006
    train_image_size: int = 128,
    train_batch_size: int = 8,
    seconds: float = 30.0,
    overwrite: bool = False,
) -> None:
    """Time Daad beside anomalib's models, interleaved in one run, and write tables and plots.

    Weights are random. A part whose table exists is kept, so that an interrupted run goes on where it stopped.

    Args:
        output: Folder for the tables (CSV), ``growth.png`` and ``speed.md``.
        device: cpu or cuda.
        parts: Parts to run, in this order.
        models: Models of the inference tables.
        runtimes: torch, onnx, openvino-f32, openvino (its default precision), openvino-int8.
        image_size: Height and width of the images at inference.
        batch_sizes: Batch sizes at inference.
        train_image_size: Height and width of the images in training.
        train_batch_size: Batch size in training.
        seconds: Time for each interleaved comparison, at least three rounds.
        overwrite: Run parts again whose tables exist.

    Raises:
        ValueError: If a part, model, runtime or device is unknown or missing.
    """
    names = [name for name in runtimes if device != "cuda" or name == "torch"]
    _check(parts, models, names, device)
    has_openvino = any(name != "torch" for name in names)
    output.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, Callable[[], list[Row]]] = {
        "limit": lambda: _limits(device),
        "training": lambda: training.compare(train_image_size, train_batch_size, 4 * seconds, device),
        "training_parts": lambda: training_parts.time_parts(train_image_size, train_batch_size, device),
        "recipe": lambda: training.steps_per_second([128, 256], train_batch_size, seconds, device),
        "inference": lambda: inference.compare(models, names, image_size, batch_sizes, seconds, device),
        "inference_parts": lambda: inference.share(image_size, batch_sizes, seconds / 3, device),
        "openvino_parts": lambda: inference.profile_openvino(image_size, batch_sizes) if has_openvino else [],
        "growth": lambda: inference.grow(seconds / 6, device),
        "size": lambda: inference.weigh(models, image_size),
    }
    for part in parts:
        path = output / f"{part}.csv"
        if overwrite or not path.exists():
            write_table(jobs[part](), path)
        rich_print(f"[bold]{part}[/bold] -> {path}")
        if part == "growth":
            report.plot_growth(read_table(path), output / "growth.png")
    text = [f"# Speed\n\n{describe_machine(device)}\n"]
    for part in PARTS:
        path = output / f"{part}.csv"
        rows = read_table(path) if path.exists() else []
        text.append(f"\n## {part}\n\n{report.to_markdown(rows) if rows else 'Not measured.'}\n")
    (output / "speed.md").write_text("".join(text))


def _check(parts: list[str], models: list[str], names: list[str], device: str) -> None:
    for kind, chosen, known in (("part", parts, PARTS), ("model", models, tuple(peers.MODELS))):
        unknown = [name for name in chosen if name not in known]
        if unknown:
            msg = f"Unknown {kind} {', '.join(unknown)}; choose among {', '.join(known)}."
            raise ValueError(msg)
    runtimes.check(names, device)


def _limits(device: str) -> list[Row]:
    dtypes = {"float32": torch.float32}
    if computes_bfloat16(device):
        dtypes["bfloat16"] = torch.bfloat16
    rows = [
        {"what": f"matrix multiply, {name}", "value": round(limit.matrix_multiply_rate(dtype, device) / 1e9, 1)}
        | {"unit": "GFLOP/s"}
        for name, dtype in dtypes.items()
    ]
    return [*rows, {"what": "copy", "value": round(limit.copy_bandwidth(device) / 1e9, 1), "unit": "GB/s"}]

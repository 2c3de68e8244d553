# SPDX-License-Identifier: Apache-2.0

"""Inference side by side: latency, throughput, fraction of the machine's limit, memory, and how cost grows."""

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anomalib_daad.components.inference import for_inference
from anomalib_daad.components.precision import computes_bfloat16
from anomalib_daad.models.daad.torch_model import DaadModel

from . import limit, peers, runtimes, timing

Row = dict[str, Any]
logger = logging.getLogger(__name__)


def _images(batch_size: int, size: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(batch_size, 3, size, size) * 2 - 1


def _load(runtime: str, model: nn.Module, images: torch.Tensor, device: str) -> Callable[[], object] | None:
    """Call of a model in a runtime; None where the model does not export."""
    try:
        call = runtimes.load(runtime, model, images, device)
        call()
    except Exception:  # exporters fail in their own ways, and the others are to be timed all the same
        logger.warning("%s does not run in %s.", type(model).__name__, runtime, exc_info=True)
        return None
    return call


def compare(
    models: Sequence[str], names: Sequence[str], size: int, batch_sizes: Sequence[int], seconds: float, device: str
) -> list[Row]:
    """Time all models in all runtimes, each runtime and batch size interleaved.

    Args:
        models (Sequence[str]): Names in ``peers.MODELS``.
        names (Sequence[str]): Runtimes.
        size (int): Height and width of the images.
        batch_sizes (Sequence[int]): Batch sizes.
        seconds (float): Time for each runtime and batch size.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        list[Row]: One row for each model, runtime and batch size: milliseconds a batch, images a second, its ratio to
        PatchCore's in the same runtime, operations, and the fraction of the limit that is reached, which is the
        larger of operations over the matrix-multiply rate and bytes over the copy bandwidth.
    """
    half = torch.bfloat16 if computes_bfloat16(device) else torch.float32  # OpenVINO's default precision
    rates = {dtype: limit.matrix_multiply_rate(dtype, device) for dtype in {torch.float32, half}}
    bandwidth = limit.copy_bandwidth(device)
    rows = []
    for batch_size in batch_sizes:
        images = _images(batch_size, size)
        built = {name: peers.build(name, size) for name in models}
        with torch.no_grad():
            work = {name: limit.count_work(partial(model, images)) for name, model in built.items()}
        for runtime in names:
            dtype = torch.float32 if runtime in {"torch", "onnx", "openvino-f32"} else half  # int8 is mixed with it
            times = _time(runtime, built, images, seconds, device)
            for name, (operations, traffic) in work.items():
                row: Row = {"model": name, "runtime": runtime, "size": size, "batch_size": batch_size}
                if name not in times:
                    rows.append(row | {"note": "does not export"})
                    continue
                summary = timing.summarize(times[name])
                least = max(operations / rates[dtype], traffic * dtype.itemsize / 4 / bandwidth)
                row |= summary | {"images_per_second": round(1e3 * batch_size / summary["ms"], 2)}
                row["gflop"] = round(operations / 1e9, 2)
                row["fraction_of_matmul_rate"] = round(operations / rates[dtype] / (summary["ms"] / 1e3), 3)
                row["fraction_of_limit"] = round(least / (summary["ms"] / 1e3), 3)
                rows.append(row)
    for row in rows:
        row["times_patchcore"] = _ratio(row, rows, "PatchCore")
        row["times_padim"] = _ratio(row, rows, "PaDiM")
    return rows


def _time(
    runtime: str, models: dict[str, nn.Module], images: torch.Tensor, seconds: float, device: str
) -> dict[str, np.ndarray]:
    calls: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        call = _load(runtime, model, images, device)
        if call is not None:
            calls[name] = call
    call = None  # holds the last model
    times = timing.interleave(calls, seconds, f"{runtime}, batch size {len(images)}")
    while calls:
        # The last one first: each model of OpenVINO puts back the signal stack that it found, and another's that is
        # gone by then would turn the next signal, such as Ctrl-C, into a segmentation fault.
        calls.popitem()
    return times


def _ratio(row: Row, rows: Iterable[Row], peer: str) -> float | None:
    for other in rows:
        if other["model"] == peer and all(other[key] == row[key] for key in ("runtime", "size", "batch_size")):
            both = "images_per_second" in row and "images_per_second" in other
            return round(row["images_per_second"] / other["images_per_second"], 2) if both else None
    return None


def grow(seconds: float, device: str, sizes: Sequence[int] = (256, 384, 512, 768, 1024)) -> list[Row]:
    """Time detectors in PyTorch as the work grows.

    Args:
        seconds (float): Time for each point.
        device (str): ``"cpu"`` or ``"cuda"``.
        sizes (Sequence[int]): Heights and widths of images.

    Returns:
        list[Row]: One row for each point of three curves: image size, training images, memory items.
    """

    def daad(num_items: int) -> nn.Module:
        torch.manual_seed(0)
        return for_inference(DaadModel((256, 256), num_items=num_items))

    ours = "DaadRestoration, registered"
    points: list[tuple[str, int, str, Callable[[], nn.Module], int]] = []
    for size in sizes:
        points += [("image size", size, name, partial(peers.build, name, size), size) for name in (ours, "PaDiM")]
    for count in (50, 100, 209, 400, 800):
        points += [
            ("training images", count, name, partial(peers.build, name, 256, count), 256)
            for name in (ours, "PatchCore")
        ]
    points += [
        ("memory items", count, "DAAD+", partial(daad, count), 256) for count in (100, 250, 500, 1000, 2000, 4000)
    ]
    rows = []
    for curve in dict.fromkeys(point[0] for point in points):
        on_curve = [point for point in points if point[0] == curve]
        calls = {
            f"{value} {name}": runtimes.load("torch", build(), _images(1, size), device)
            for _, value, name, build, size in on_curve
        }
        times = timing.interleave(calls, seconds * len(calls), f"latency against {curve}")
        for _, value, name, _, _ in on_curve:
            summary = timing.summarize(times[f"{value} {name}"])
            rows.append({"curve": curve, "value": value, "model": name} | summary)
    return rows


def share(size: int, batch_sizes: Sequence[int], seconds: float, device: str) -> list[Row]:
    """Time the parts of DAAD+ in an inference pass, interleaved, in PyTorch.

    Args:
        size (int): Height and width of the images.
        batch_sizes (Sequence[int]): Batch sizes.
        seconds (float): Time for each batch size.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        list[Row]: One row for each part and batch size, with its share of the whole pass.
    """
    model = peers.build("DAAD+", size).to(device)
    rows = []
    for batch_size in batch_sizes:
        parts = _parts(model, _images(batch_size, size).to(device))
        times = timing.interleave(parts, seconds, f"parts, batch size {batch_size}")
        whole = timing.summarize(times["whole"])["ms"]
        for part, values in times.items():
            summary = timing.summarize(values)
            rows.append({"part": part, "batch_size": batch_size, **summary, "share": round(summary["ms"] / whole, 3)})
    return rows


def _parts(model: Any, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    autoencoder = model.autoencoder
    with torch.inference_mode():
        features = autoencoder.encoder(images)
        reads = [memory(feature) for memory, feature in zip(autoencoder.memories, features, strict=True)]
        pairs = torch.cat([images, images])
    parts: dict[str, Callable[[], object]] = {
        "whole": lambda: model(images),
        "encoder": lambda: autoencoder.encoder(images),
        "memory": lambda: [memory(part) for memory, part in zip(autoencoder.memories, features, strict=True)],
        "decoder": lambda: autoencoder.decoder(reads),
        "discriminator": lambda: model.discriminator.features(pairs),
        "anomaly map": lambda: model.error_map(images, images),
    }
    return {name: torch.inference_mode()(call) for name, call in parts.items()}


def profile_openvino(size: int, batch_sizes: Sequence[int], passes: int = 20) -> list[Row]:
    """Ask OpenVINO, at its default precision, where DAAD+ spends its time.

    Args:
        size (int): Height and width of the images.
        batch_sizes (Sequence[int]): Batch sizes.
        passes (int): Passes that are added up. Defaults to ``20``.

    Returns:
        list[Row]: One row for each kind of node and batch size: milliseconds a pass and its share.
    """
    rows = []
    for batch_size in batch_sizes:
        times = _node_times(_images(batch_size, size), passes)
        total = sum(times.values())
        for node_type, seconds in sorted(times.items(), key=lambda pair: -pair[1]):
            row: Row = {"node": node_type, "batch_size": batch_size, "ms": round(1e3 * seconds / passes, 3)}
            rows.append(row | {"share": round(seconds / total, 3)})
    return [row for row in rows if row["share"] >= 0.005]


def _node_times(images: torch.Tensor, passes: int) -> dict[str, float]:
    """Seconds of all passes by kind of node; the model is gone on return, see :func:`_time`."""
    model = peers.build("DAAD+", images.shape[-1])
    request = runtimes.compile_openvino("openvino", model, images, PERF_COUNT="YES").create_infer_request()
    request.infer([images.numpy()])
    times: dict[str, float] = {}
    for _ in range(passes):
        request.infer([images.numpy()])
        for node in request.profiling_info:
            times[node.node_type] = times.get(node.node_type, 0.0) + node.real_time.total_seconds()
    return times


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))  # kB


def _peak(name: str, size: int) -> float | None:
    """Megabytes that a process needs at most to call a model, beyond the imports; None where Linux does not tell."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    images = _images(1, size)
    before = _resident("VmRSS")
    call = runtimes.load("torch", peers.build(name, size), images)
    reset.write_text("5")  # the peak so far is that of building
    for _ in range(3):
        call()
    return round((_resident("VmHWM") - before) / 1024, 1)


def weigh(models: Sequence[str], size: int) -> list[Row]:
    """Measure memory and file size of each model.

    Args:
        models (Sequence[str]): Names in ``peers.MODELS``.
        size (int): Height and width of the images.

    Returns:
        list[Row]: One row a model: megabytes that calling it adds at most to the memory of a fresh process (PyTorch,
        batch size 1), of its weights in float32, and of its OpenVINO files.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in models:
        with ProcessPoolExecutor(1, context) as fresh_process:
            peak = fresh_process.submit(_peak, name, size).result()
        model = peers.build(name, size)
        row: Row = {"model": name, "size": size, "peak_mb": peak}
        row["weights_mb"] = round(sum(t.nbytes for t in model.state_dict().values()) / 1e6, 1)
        rows.append(row | _openvino_sizes(model, _images(1, size)))
    return rows


def _openvino_sizes(model: nn.Module, images: torch.Tensor) -> Row:
    try:
        import openvino

        converted = runtimes.to_openvino(model, images)
        with tempfile.TemporaryDirectory() as folder:
            sizes = {}
            for key, compress in (("openvino_f32_mb", False), ("openvino_f16_mb", True)):
                path = Path(folder) / f"{key}.xml"
                openvino.save_model(converted, path, compress_to_fp16=compress)
                sizes[key] = round(path.with_suffix(".bin").stat().st_size / 1e6, 1)
            return sizes
    except Exception:  # the model does not export, or OpenVINO is not there
        logger.warning("%s does not convert.", type(model).__name__, exc_info=True)
        return {"openvino_f32_mb": None, "openvino_f16_mb": None}

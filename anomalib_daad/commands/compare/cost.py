# SPDX-License-Identifier: Apache-2.0

"""What a trained model costs per image: latency, throughput and memory of what is deployed, all models in turn."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.models import AnomalibModule

from anomalib_daad.commands.shared.output_folder import Row
from anomalib_daad.commands.speed.timing import interleave, summarize
from anomalib_daad.error_message import first_line
from anomalib_daad.training.reconstruction_training import ReconstructionTraining

logger = logging.getLogger(__name__)
BATCH = 16
DEPLOYED = Path("weights", "openvino", "model.xml")

# Without torch, which a machine that runs OpenVINO does not load.
_PEAK_OF_OPENVINO = """
import sys
from pathlib import Path
import numpy, openvino
request = openvino.compile_model(sys.argv[1], "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
image = numpy.random.default_rng(0).random((1, 3, int(sys.argv[2]), int(sys.argv[2])), dtype=numpy.float32)
for _ in range(3):
    request.infer([image])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def measure_costs(
    models: Mapping[str, AnomalibModule], folders: Mapping[str, Path], image_size: int, seconds: float, device: str
) -> dict[str, Row]:
    """Time all models in turn, from images in [0, 1] to scores, labels and maps.

    Args:
        models (Mapping[str, AnomalibModule]): Trained models.
        folders (Mapping[str, Path]): Folders with what was exported of them.
        image_size (int): Height and width of the images.
        seconds (float): Time for each table of timings.
        device (str): Device of PyTorch's timings, ``"cpu"`` or ``"cuda"``; OpenVINO's are on the CPU.

    Returns:
        dict[str, Row]: ``torch_ms`` and ``openvino_ms`` for one image; ``torch_images_per_second`` in batches of 16,
        ``openvino_images_per_second`` with as many requests at once as OpenVINO likes; ``openvino_peak_mb`` of a
        process that does nothing else, on Linux. None for what was not measured.
    """
    image = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    batch = image.repeat(BATCH, 1, 1, 1)
    for model in models.values():
        model.eval().to(device)
    single = interleave(
        {name: _torch_call(model, image) for name, model in models.items()}, seconds, "PyTorch, 1 image"
    )
    many = interleave({name: _torch_call(model, batch) for name, model in models.items()}, seconds, "PyTorch, batches")
    rows: dict[str, Row] = {
        name: {"torch_ms": summarize(single[name])["ms"], "torch_images_per_second": _rate(BATCH, many[name])}
        for name in models
    }
    exported = {name: folder / DEPLOYED for name, folder in folders.items() if (folder / DEPLOYED).exists()}
    for name, row in _openvino(exported, image.cpu().numpy(), seconds).items():
        rows[name] |= row
    return rows


def runtime(costs: Mapping[str, Row]) -> tuple[str, str]:
    """Choose the runtime that models are compared in: OpenVINO where all were timed in it.

    Args:
        costs (Mapping[str, Row]): Of each model what it costs.

    Returns:
        tuple[str, str]: The cost's key, and the runtime's name.
    """
    if all(row.get("openvino_ms") for row in costs.values()):
        return "openvino_ms", "OpenVINO"
    return "torch_ms", "PyTorch"


def _torch_call(model: AnomalibModule, images: torch.Tensor) -> Callable[[], object]:
    network: Any = model.inference_model().eval() if isinstance(model, ReconstructionTraining) else model.model
    pre_processor: Any = model.pre_processor
    post_processor: Any = model.post_processor
    return torch.inference_mode()(lambda: post_processor(network(pre_processor(images))))


def _openvino(exported: Mapping[str, Path], image: np.ndarray, seconds: float) -> dict[str, Row]:
    try:
        import openvino
    except ImportError:
        return {}
    rows: dict[str, Row] = {
        name: {"openvino_peak_mb": _peak_mb(path, image.shape[-1])} for name, path in exported.items()
    }
    core = openvino.Core()
    requests = {
        name: core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
        for name, path in exported.items()
    }
    timed = [name for name, request in requests.items() if _takes(request, image)]
    calls = {name: (lambda request=requests[name]: request.infer([image])) for name in timed}
    for name, times in interleave(calls, seconds, "OpenVINO, 1 image").items():
        rows[name]["openvino_ms"] = summarize(times)["ms"]
    calls.clear()
    while requests:
        requests.popitem()  # last in, first out: OpenVINO restores signal stacks in the order of a stack
    for name in timed:
        compiled = core.compile_model(exported[name], "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        queue = openvino.AsyncInferQueue(compiled)
        rows[name]["openvino_images_per_second"] = _throughput(queue, image, seconds / len(timed))
        del queue, compiled
    return rows


def _takes(request: Any, image: np.ndarray) -> bool:
    """Whether an export takes one image; some exporters fix the batch of the images that they were shown."""
    try:
        request.infer([image])
    except RuntimeError as error:
        logger.warning("OpenVINO cannot time an export: %s", first_line(error))
        return False
    return True


def _throughput(queue: Any, image: np.ndarray, seconds: float) -> float:
    for _ in range(len(queue)):
        queue.start_async([image])
    queue.wait_all()
    count, start = 0, time.perf_counter()
    while count < 2 * len(queue) or time.perf_counter() - start < seconds:
        queue.start_async([image])
        count += 1
    queue.wait_all()
    return round(count / (time.perf_counter() - start), 2)


def _peak_mb(path: Path, image_size: int) -> float | None:
    command = [sys.executable, "-c", _PEAK_OF_OPENVINO, str(path), str(image_size)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    return round(int(done.stdout) * 1024 / 1e6, 1) if done.returncode == 0 else None


def _rate(count: int, times: np.ndarray) -> float:
    return round(count / float(np.median(times)), 2)

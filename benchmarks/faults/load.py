# SPDX-License-Identifier: Apache-2.0

"""An inspection service under load: one process, threads, images of mixed sizes; memory, cross-talk, throughput.

python benchmarks/faults/load.py benchmarks/faults/load.csv

"OpenVINO, queue" is its ``AsyncInferQueue`` of four requests, fed by one thread.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import torch

from anomalib_daad import Daad
from anomalib_daad.commands.shared.output_folder import write_table

SIZES = ((64, 64), (48, 80), (100, 37), (128, 128), (33, 65), (256, 192))
THREADS = 4


def memory_mb() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def in_threads(score: Callable[[np.ndarray], float], images: Iterable[np.ndarray]) -> Iterator[float]:
    """Score images in threads, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(score, images)


def serve(name: str, found: Iterator[float], places: list[int], alone: list[float]) -> dict[str, float | int | str]:
    """Draw scores, and compare each with what its image scored alone.

    Args:
        name (str): Runtime.
        found (Iterator[float]): Scores.
        places (list[int]): The image that each is of.
        alone (list[float]): What each image scored alone.

    Returns:
        dict[str, float | int | str]: Largest difference of a score, images a second, and memory after a tenth, at the
            most after that, and at the end.
    """
    differences: list[float] = []
    memory: list[float] = []
    every = max(1, len(places) // 100)
    start = time.perf_counter()
    for place, score in zip(places, found, strict=True):
        differences.append(abs(score - alone[place]))
        if len(differences) % every == 0 and len(differences) >= len(places) // 10:
            memory.append(memory_mb())
    seconds = time.perf_counter() - start
    return {
        "runtime": name,
        "at_once": THREADS,
        "images": len(places),
        "sizes": len(SIZES),
        "largest_difference": max(differences),
        "images_per_second": round(len(places) / seconds, 1),
        "warm_mb": round(memory[0], 1),
        "most_mb": round(max(memory), 1),
        "end_mb": round(memory[-1], 1),
    }


def main() -> None:
    """Write a row for each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    images = [random.random((3, *size), dtype=np.float32) for size in SIZES for _ in range(5)]
    model = Daad(image_size=(64, 64), division_rates=(4, 4, 1), base_channels=16, num_items=100, seed=0).eval()
    model.model.score.calibrate(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))

    def in_torch(image: np.ndarray) -> float:
        with torch.inference_mode():
            return float(model(torch.from_numpy(image)[None]).pred_score)

    with tempfile.TemporaryDirectory() as folder:
        path = model.to_onnx(Path(folder))
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    own = threading.local()

    def in_openvino(image: np.ndarray) -> float:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return float(own.request.infer([image[None]])["pred_score"].item())

    def in_queue(places: list[int]) -> Iterator[float]:
        queue, scores, step = openvino.AsyncInferQueue(compiled, THREADS), {}, 100
        queue.set_callback(
            lambda request, index: scores.__setitem__(index, float(request.get_tensor("pred_score").data.item()))
        )
        for start in range(0, len(places), step):
            for index in range(start, min(start + step, len(places))):
                queue.start_async([images[places[index]][None]], index)
            queue.wait_all()
            yield from (scores.pop(index) for index in sorted(scores))

    random_order = random.integers(0, len(images), arguments.count).tolist()
    served = [images[place] for place in random_order]
    rows = []
    for name, score in (("PyTorch", in_torch), ("OpenVINO", in_openvino)):
        alone = [score(image) for image in images]
        rows.append(serve(name, in_threads(score, served), random_order, alone))
    rows.append(serve("OpenVINO, queue", in_queue(random_order), random_order, alone))
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

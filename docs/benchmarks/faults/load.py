# SPDX-License-Identifier: Apache-2.0

"""An inspection service under load: one process, threads, images of mixed sizes; memory, cross-talk, throughput.

python docs/benchmarks/faults/load.py docs/benchmarks/faults/load.csv
"""

import argparse
import csv
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import torch

from anomalib_daad import Daad

SIZES = ((64, 64), (48, 80), (100, 37), (128, 128), (33, 65), (256, 192))
THREADS = 4


def memory_mb() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def serve(score: Callable[[np.ndarray], float], images: list[np.ndarray], count: int) -> dict[str, float | int]:
    """Score images in threads, and compare with what each scored alone.

    Args:
        score (Callable[[np.ndarray], float]): Scores an image of shape ``(3, H, W)``.
        images (list[np.ndarray]): Images, taken in turn.
        count (int): Images to score.

    Returns:
        dict[str, float | int]: Largest difference of a score, images a second, memory after a tenth and at the end.
    """
    alone = [score(image) for image in images]
    places = [index % len(images) for index in range(count)]
    differences: list[float] = []
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for place, found in zip(places, pool.map(lambda place: score(images[place]), places), strict=True):
            differences.append(abs(found - alone[place]))
            if len(differences) == count // 10:
                warm = memory_mb()
    seconds = time.perf_counter() - start
    return {
        "images": count,
        "largest_difference": max(differences),
        "images_per_second": round(count / seconds, 1),
        "warm_mb": round(warm, 1),
        "end_mb": round(memory_mb(), 1),
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

    rows = [
        {"runtime": name, "threads": THREADS, **serve(score, images, arguments.count)}
        for name, score in (("PyTorch", in_torch), ("OpenVINO", in_openvino))
    ]
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""What presets cost per image, all in turn: random weights, images of 256 px, which each resizes to its own size.

A preset that looks for the place of parts is measured without, as for textures, with parts registered to the mean of
the training images, and with parts searched for by restorations. On a GPU
there is PyTorch alone, in float32 with convolutions as PyTorch sets them, and no OpenVINO.

With ``--sizes`` it tells instead what one image of each size costs ``DaadRestoration`` in PyTorch: seconds of processor
time, which do not depend on what else runs, and the peak memory of the process with its libraries.

Example:
    python benchmarks/restoration/cost.py --output cost.csv \
        configs/daad_restoration_cpu.yaml configs/daad_cpu.yaml
    python benchmarks/restoration/cost.py --output large.csv --sizes 512x512 1024x1024 --tile_size 256
"""

import argparse
import copy
import resource
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from anomalib.engine import Engine

from anomalib_daad import DaadRestoration
from anomalib_daad.commands.compare.contestant import Contestant
from anomalib_daad.commands.compare.cost import measure_costs
from anomalib_daad.commands.shared.machine import describe_commit, describe_machine
from anomalib_daad.commands.shared.output_folder import Row, write_table
from anomalib_daad.components.inference import for_inference
from anomalib_daad.models.daad_restoration.placement import KNOWN

IMAGE_SIZE = 256


def measure_size(size: tuple[int, int], downscale: int, tile_size: int | None, channels: int) -> Row:
    """Measure one image, in a process of its own."""
    torch.set_num_threads(1)
    model = DaadRestoration(size, downscale, channels, placement_radius=0, tile_size=tile_size, seed=0).eval()
    network, image = for_inference(model.model), torch.rand(1, 3, *size) * 2 - 1
    spent = []
    for _ in range(3):
        start = time.process_time()
        network(image)
        spent.append(time.process_time() - start)
    return {
        "model": f"DaadRestoration, {channels} channels, downscale {downscale}",
        "size": f"{size[1]}x{size[0]}" + (f", tiles of {tile_size}" if tile_size else ""),
        "tiles": model.model.tiling.count,
        "image_cpu_ms": round(1000 * min(spent), 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "commit": describe_commit(),
        "machine": describe_machine("cpu"),
    }


def main() -> None:
    """Write one row a configuration, or a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", nargs="+", help="width x height, such as 4096x3072")
    parser.add_argument("--downscale", type=int, default=4)
    parser.add_argument("--tile_size", type=int)
    parser.add_argument("--channels", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.sizes:
        sizes = [tuple(int(side) for side in size.split("x"))[::-1] for size in arguments.sizes]
        tasks = [(size, arguments.downscale, arguments.tile_size, arguments.channels) for size in sizes]
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            write_table(pool.starmap(measure_size, tasks, chunksize=1), arguments.output)
        return
    contestants = [Contestant.parse(path) for path in arguments.configurations]
    models = {}
    for it in contestants:
        model = models[it.name] = it.build(it.image_size or IMAGE_SIZE, seed=0).eval()
        if getattr(model.model, "placement", None) is not None:
            models[f"{it.name}, registered"] = registered = copy.deepcopy(model)
            registered.model.registration.recall.fill_(1.0)
            registered.model.registration.likeness.fill_(1.0)
            models[f"{it.name}, searched"] = searched = copy.deepcopy(model)
            searched.model.placement.growth.fill_(KNOWN)
    with TemporaryDirectory() as root:
        folders = {name: Path(root, name) for name in models} if arguments.device == "cpu" else {}
        for name, folder in folders.items():
            Engine(logger=False, accelerator="cpu").export(models[name], "openvino", export_root=folder)
        costs = measure_costs(models, folders, IMAGE_SIZE, arguments.seconds, arguments.device)
    rows = [{"model": name, "image_size": models[name].model.image_size[0], **row} for name, row in costs.items()]
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0

"""What presets cost per image, all in turn: random weights, images of 256 px, which each resizes to its own size.

A preset that looks for the place of parts is measured without, as for textures, with parts registered to the mean of
the training images, and with parts searched for by restorations. On a GPU
there is PyTorch alone, in float32 with convolutions as PyTorch sets them, and no OpenVINO.

Example:
    python benchmarks/restoration/cost.py --output cost.csv \
        configs/daad_restoration_cpu.yaml configs/daad_cpu.yaml
"""

import argparse
import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from anomalib.engine import Engine

from anomalib_daad.commands.compare.contestant import Contestant
from anomalib_daad.commands.compare.cost import measure_costs
from anomalib_daad.commands.shared.output_folder import write_table
from anomalib_daad.models.daad_restoration.placement import KNOWN

IMAGE_SIZE = 256


def main() -> None:
    """Write one row a configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
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

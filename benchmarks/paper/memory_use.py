# SPDX-License-Identifier: Apache-2.0

"""How the memories of trained models are used: how flat the weights are, which items are dead, what the read keeps.

Example:
    python benchmarks/paper/memory_use.py --root datasets/MVTecAD --cells reproduction/cells \
        --output benchmarks/paper/memory_use.csv
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path

import torch
from anomalib.data import MVTecAD
from torch.nn.functional import cosine_similarity

from anomalib_daad import Daad
from anomalib_daad.commands.reproduce.cell import Cell
from anomalib_daad.commands.reproduce.systems import SYSTEMS
from anomalib_daad.commands.shared.output_folder import write_table
from anomalib_daad.components.block_memory import BlockMemory

IMAGES = 24  # good and defective, spread over the test set


@torch.no_grad()
def measure(model: Daad, initial: Daad, images: torch.Tensor) -> list[dict[str, float | int]]:
    """Describe the use of each memory, fine to coarse.

    Args:
        model (Daad): Model in evaluation mode.
        initial (Daad): The same before it was trained.
        images (torch.Tensor): Images, shape ``(B, 3, H, W)``.

    Returns:
        list[dict[str, float | int]]: For each memory: the largest weight times N (1 is a flat read), the effective
        number of items (exponential of the entropy), items that no block reads, how far the items moved in training
        relative to their norm, the cosine of a block and its read, and how much reads differ from block to block:
        their standard deviation over their root mean square, beside the same of the queries.
    """
    memories, untrained = (
        [memory for memory in it.model.autoencoder.memories if isinstance(memory, BlockMemory)]
        for it in (model, initial)
    )
    collected: dict[int, dict[str, list[torch.Tensor]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        for index, read in enumerate(model.model.autoencoder.reconstruct(image[None]).reads):
            memory = memories[index]
            weights, queries = read.weights[0], read.queries[0]  # (Q, N), (Q, D)
            blocks = memory.divide(read.features)[0]  # (Q, D)
            shares = weights / weights.sum(dim=1, keepdim=True)
            scale = collected[index]
            scale["max_weight_times_n"].append(weights.amax(dim=1) * weights.shape[1])
            scale["effective_items"].append(torch.special.entr(shares).sum(dim=1).exp())
            scale["cosine_of_read"].append(cosine_similarity(queries, blocks, dim=1))
            scale["used"].append((weights > 0).any(dim=0, keepdim=True))
            scale["queries"].append(queries)
            scale["reads"].append(blocks)
    rows = []
    for index, values in sorted(collected.items()):
        joined = {name: torch.cat(tensors) for name, tensors in values.items()}
        dead = ~joined["used"].any(dim=0)
        row: dict[str, float | int] = {"memory": index + 1, "items": len(dead), "dead_items": int(dead.sum())}
        start, end = untrained[index].items, memories[index].items
        row["items_moved"] = round(((end - start).norm() / start.norm()).item(), 4)
        for name in ("max_weight_times_n", "effective_items", "cosine_of_read"):
            row[name] = round(joined[name].mean().item(), 3)
        for name in ("queries", "reads"):
            tensor = joined[name]
            row[f"variation_of_{name}"] = round(
                (tensor.std(dim=0).square().mean() / tensor.square().mean()).sqrt().item(), 4
            )
        rows.append(row)
    return rows


def main() -> None:
    """Write one row a memory of every cell of ``anomalib-daad reproduce`` with a block memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.cells.glob("*/model.ckpt")):
        result = json.loads((path.parent / "result.json").read_text())
        folder = Path(arguments.root, result["category"])
        if SYSTEMS[result["system"]].model != "Daad" or not folder.is_dir():
            continue
        model = Daad.load_from_checkpoint(path, map_location="cpu").eval()
        datamodule = MVTecAD(arguments.root, result["category"], num_workers=0, val_split_mode="none")
        datamodule.setup()
        chosen = torch.linspace(0, len(datamodule.test_data) - 1, IMAGES).round().int().tolist()
        images = model.pre_processor(torch.stack([datamodule.test_data[index].image for index in chosen]))
        identity = {name: result[name] for name in ("system", "category", "image_size", "steps", "seed")}
        initial = Cell(**{name: result[name] for name in Cell.__annotations__}).build()
        rows += [{**identity, **row} for row in measure(model, initial, images)]
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

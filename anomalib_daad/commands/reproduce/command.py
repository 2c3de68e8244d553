# SPDX-License-Identifier: Apache-2.0

"""The command: which cells there are to run, who runs them, and what is written of them."""

import json
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich import print as rich_print

from anomalib_daad.commands.reproduce import cell as cells
from anomalib_daad.commands.shared.machine import refuse_other_devices
from anomalib_daad.commands.shared.output_folder import Row, prepare_folder, write_table, write_text
from anomalib_daad.data.mvtec_layout import find_categories
from anomalib_daad.error_message import first_line

from . import paper, tables
from .cell import Cell
from .systems import SYSTEMS

SCALING = (
    "Memories are addressed as Daad does by default, not by eq. 1 as printed, but for systems that say so. Fused "
    "scores scale R and L by their ranges on the training images of the last epoch; the paper scales them to [0, 1] "
    "and does not say by which images."
)
TABLES = ("table2", "table3", "table4", "table5")


def reproduce(
    table: str,
    data: Path,
    categories: list[str | int] | None = None,
    systems: list[str] | None = None,
    epochs: int = 1000,
    steps: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    seeds: list[int] = [0],  # noqa: B006
    device: str = "cpu",
    precision: str = "bf16-mixed",
    model: dict[str, Any] | None = None,
    output: Path = Path("reproduction"),
    checkpoints: bool = True,
) -> None:
    """Run the cells of one of the paper's tables, and write it beside the paper's numbers.

    The fused score scales R and L by their ranges on the training images of the last epoch; the paper does not say by
    which images it does. Nothing is chosen on test images, no epoch either.

    A finished cell is never run again, whatever table asks for it; a stopped one goes on from its last checkpoint. Any
    number of processes may share an output folder. Use one output folder for one data set.

    Args:
        table: table2 (one class of MNIST or CIFAR-10), table3 (systems), table4 (division rates), table5 (losses and
            scores).
        data: Root of data in MVTec AD's layout; for table2 mnist.npz, or a folder of MNIST or CIFAR-10 (with
            "cifar" in its name).
        categories: Categories, or normal classes; all that there are if not given.
        systems: Systems; the paper's if not given.
        epochs: Epochs of each training.
        steps: Steps of each training, in place of epochs.
        image_size: Height and width; 256 if not given, and 32 for table2.
        batch_size: Images a step; 8 if not given, and 64 for table2.
        seeds: Seeds.
        device: cpu or cuda.
        precision: Lightning's precision of the training; scores are always computed in float32.
        model: Arguments of the model laid over those of every system, for example "{flips: false}".
        output: Folder for results.csv, the table, and a folder for each cell.
        checkpoints: Keep the trained weights of each cell.

    Raises:
        ValueError: If a table, system, category, device or division rate does not fit.
        FileNotFoundError: If the data are not there.
        OSError: If the output folder cannot be written to.
    """
    dataset = _dataset(table, data)
    refuse_other_devices(device)
    unknown = [name for name in systems or [] if name not in SYSTEMS]
    if unknown:
        msg = f"Unknown system {', '.join(unknown)}; choose among {', '.join(SYSTEMS)}."
        raise ValueError(msg)
    names = _categories(dataset, data, categories)
    chosen = tables.entries(table, dataset, systems)
    if not chosen:
        msg = f"{table} has none of the systems {', '.join(systems or [])}; leave --systems out for the paper's."
        raise ValueError(msg)
    size = image_size or (256 if dataset == "mvtec" else 32)
    batch = batch_size or (8 if dataset == "mvtec" else 64)
    changes = json.dumps(model, sort_keys=True) if model else ""
    wanted = [
        Cell(dataset, system, category, size, epochs, steps, batch, precision, changes, seed)
        for seed in seeds
        for system in dict.fromkeys(entry.system for entry in chosen)
        for category in names
    ]
    wanted = _fitting(wanted, table, systems)
    prepare_folder(output)

    def report(text: str) -> None:
        with FileLock(output / ".lock"):  # the last to write has seen all that others wrote
            rows = results(output)
            mine = [row for row in rows if Cell(**{key: row.get(key, 0) for key in Cell.__annotations__}) in wanted]
            failed = [cell for cell in wanted if (output / "cells" / cell.name / "error.txt").exists()]
            if rows:
                write_table(rows, output / "results.csv")
            heading = f"# {table}\n\nImage AUROC at {size} px, {steps or epochs} {'steps' if steps else 'epochs'}"
            heading += f", with {changes}" if changes else ""
            text_of_table = tables.to_markdown(table, chosen, names, mine, failed)
            write_text(output / f"{table}.md", f"{heading}. {SCALING}\n\n{text_of_table}")
        rich_print(text)

    failed = _run_all(wanted, data, output, device, checkpoints, report)
    report(f"{table} -> {output / f'{table}.md'}")
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        msg = f"{len(failed)} of {len(wanted)} cells failed and will be tried again next time: {reasons}"
        raise ValueError(msg)


def results(output: Path) -> list[Row]:
    """Read the results of all finished cells.

    Args:
        output (Path): Output folder.

    Returns:
        list[Row]: One row a cell.
    """
    return [json.loads(path.read_text()) for path in sorted(output.glob("cells/*/result.json"))]


def _run_all(
    wanted: list[Cell],
    data: Path,
    output: Path,
    device: str,
    checkpoints: bool,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Run what nobody else runs; wait for what others run; return why cells failed."""
    failed: dict[str, str] = {}
    durations: list[float] = []
    open_cells = list(wanted)
    while open_cells:
        for cell in list(open_cells):
            folder = output / "cells" / cell.name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                # The system frees the lock of a process that is gone, however it went.
                with FileLock(folder / "lock", timeout=0):
                    if not (folder / "result.json").exists():
                        start = time.perf_counter()
                        row = cells.run(cell, data, folder, device, checkpoints)
                        durations.append(time.perf_counter() - start)
                        left = mean(durations) * (len(open_cells) - 1) / 60
                        (folder / "error.txt").unlink(missing_ok=True)
                        scores = ", ".join(f"{part} {row[f'auroc_{part}']}" for part in ("R", "L", "fused"))
                        report(f"{cell.name}: {scores}; {len(open_cells) - 1} cells, about {left:.0f} min left")
            except Timeout:
                continue  # another process is at it
            except Exception as error:  # one cell must not stop the others
                failed[cell.name] = first_line(error)
                write_text(folder / "error.txt", traceback.format_exc())
                shutil.rmtree(folder / "resume", ignore_errors=True)  # next time from the start
                report(f"{cell.name} failed: {failed[cell.name]}")
            open_cells.remove(cell)
        if open_cells:
            time.sleep(2)
    return failed


def _dataset(table: str, data: Path) -> str:
    if table not in TABLES:
        msg = f"Unknown table {table}; choose among {', '.join(TABLES)}."
        raise ValueError(msg)
    if not data.exists():
        msg = f"There are no data at {data}; give --data a root in MVTec AD's layout, or for table2 mnist.npz."
        raise FileNotFoundError(msg)
    if table != "table2":
        return "mvtec"
    return "cifar10" if "cifar" in data.name.lower() else "mnist"


def _categories(dataset: str, data: Path, categories: list[str | int] | None) -> list[str]:
    classes = {"mnist": paper.MNIST, "cifar10": paper.CIFAR10}
    known = find_categories(data) if dataset == "mvtec" else list(classes[dataset])
    unknown = [str(name) for name in categories or [] if str(name) not in known]
    if unknown or not known:
        msg = f"Unknown category {', '.join(unknown)}; {data} has {', '.join(known) or 'none (no */train/good)'}."
        raise ValueError(msg)
    return known if categories is None else [str(name) for name in categories]


def _fitting(wanted: list[Cell], table: str, systems: list[str] | None) -> list[Cell]:
    """Leave out systems that do not fit the image size; refuse them where the user named them."""
    reasons: dict[str, str] = {}
    for cell in {cell.system: cell for cell in wanted}.values():
        with torch.device("meta"):
            try:
                cell.build()
            except ValueError as error:
                reasons[cell.system] = str(error)
    if reasons and (systems is not None or len(reasons) == len({cell.system for cell in wanted})):
        msg = "; ".join(f"{system}: {reason}" for system, reason in reasons.items())
        raise ValueError(msg)
    for system, reason in reasons.items():
        rich_print(f"{table} without {system}: {reason}")
    return [cell for cell in wanted if cell.system not in reasons]

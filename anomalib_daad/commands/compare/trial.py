# SPDX-License-Identifier: Apache-2.0

"""One model trained, tested and exported on one data set, in a process of its own.

A process of its own has its own peak of memory, and one that dies takes nothing with it.
"""

import json
import math
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.models.components.base import MemoryBankMixin
from filelock import FileLock
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Timer

from anomalib_daad.commands.shared.output_folder import Row, write_table, write_text
from anomalib_daad.commands.shared.resume_point import ResumePoint
from anomalib_daad.error_message import first_line
from anomalib_daad.training.reconstruction_training import ReconstructionTraining

from .contestant import Contestant
from .data import ComparedData
from .progress import Progress

EVAL_BATCH = 16
RESUME_EPOCHS = 5
DEFAULT_STEPS = 1000
NO_SPACE = 1_000_000  # bytes
PROGRESS = "progress.txt"


@dataclass(frozen=True)
class Trial:
    """What identifies a trial.

    Attributes:
        contestant (Contestant): Model.
        data (ComparedData): Data.
        image_size (int): Height and width.
        steps (int | None): Steps of a training whose recipe does not say; None for the model's own, or 1000.
        batch_size (int): Images a step, likewise.
        seed (int): Seed.
        device (str): ``"cpu"`` or ``"cuda"``.
        pretrained (bool): Use weights trained elsewhere.
        backbone (str | None): Backbone of models that have one.
        backbone_weights (str | None): Path to its weights.
    """

    contestant: Contestant
    data: ComparedData
    image_size: int
    steps: int | None
    batch_size: int
    seed: int
    device: str
    pretrained: bool
    backbone: str | None
    backbone_weights: str | None

    @classmethod
    def read(cls, path: Path) -> "Trial":
        """Read what :meth:`write` wrote.

        Args:
            path (Path): JSON file.

        Returns:
            Trial: The trial.
        """
        values = json.loads(path.read_text())
        return cls(Contestant(**values.pop("contestant")), ComparedData(**values.pop("data")), **values)

    def write(self, path: Path) -> None:
        """Write the trial down.

        Args:
            path (Path): JSON file.
        """
        write_text(path, json.dumps(asdict(self), indent=1))

    def build(self) -> AnomalibModule:
        """Build the model, not trained.

        Returns:
            AnomalibModule: The model.

        Raises:
            ValueError: If arguments or weights do not fit.
        """
        weights = None if self.backbone_weights is None else Path(self.backbone_weights)
        return self.contestant.build(self.image_size, self.seed, self.pretrained, self.backbone, weights)


def run(trial: Trial, folder: Path) -> None:
    """Train, test and export; a training that was stopped goes on.

    Args:
        trial (Trial): What to do.
        folder (Path): Gets ``scores.csv``, ``maps.npy``, ``masks.npy``, ``model.ckpt``, ``weights/openvino/`` and,
            last, ``result.json``.
    """
    seed_everything(trial.seed, workers=True, verbose=False)
    datamodule = trial.data.build(trial.contestant.batch_size or trial.batch_size, EVAL_BATCH, trial.seed)
    model = trial.build()
    recipe = dict(trial.contestant.trainer)
    batches = max(1, len(datamodule.train_dataloader()))
    has_bank = isinstance(model, MemoryBankMixin)  # which fills as validation starts
    if not recipe.keys() & {"max_epochs", "max_steps"} and "max_epochs" not in model.trainer_arguments:
        # In epochs, which schedules are made of; and steps would count every optimizer's.
        steps = trial.steps or getattr(model, "default_steps", None) or DEFAULT_STEPS
        recipe["max_epochs"] = math.ceil(steps / batches)
    # Scores of the reconstruction models are computed in float32 whatever they are trained in.
    recipe.setdefault("precision", "bf16-mixed" if isinstance(model, ReconstructionTraining) else "32-true")
    recipe.setdefault("max_epochs", -1)  # of a recipe in steps
    epochs = recipe["max_epochs"] if recipe["max_epochs"] > 0 else math.ceil(recipe.get("max_steps", 1) / batches)
    last = folder / "resume" / "last.ckpt"
    interval = max(1, min(RESUME_EPOCHS, epochs // 20))
    resume_point = ResumePoint(last.parent, last.stem, enable_version_counter=False, every_n_epochs=interval)
    timer = Timer()  # its state is in the checkpoint
    progress = Progress(folder / PROGRESS, recipe["max_steps"] if recipe.get("max_steps", -1) > 0 else epochs * batches)
    engine = Engine(
        **recipe,
        accelerator="gpu" if trial.device == "cuda" else "cpu",
        devices=1,
        default_root_dir=folder / "engine",
        logger=False,
        enable_model_summary=False,
        **({} if has_bank else {"limit_val_batches": 0}),
        callbacks=[timer, progress] if has_bank else [timer, progress, resume_point],
    )
    engine.fit(model, datamodule=datamodule, ckpt_path=last if last.exists() else None)
    if not has_bank:
        engine = Engine(
            accelerator=engine.trainer.accelerator, devices=1, default_root_dir=folder / "engine", logger=False
        )
        engine.validate(model, datamodule=datamodule, verbose=False)
    engine.trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    facts: Row = {
        "train_seconds": round(timer.time_elapsed("train"), 1),
        "train_images": len(datamodule.train_data),
        "train_peak_mb": peak_memory_mb(trial.device),
        **_test(model, datamodule.test_dataloader(), folder, trial.device),
        **_export(engine, model, folder),
    }
    write_text(folder / "result.json", json.dumps(facts, indent=1))
    (folder / PROGRESS).unlink(missing_ok=True)
    for scratch in (folder / "resume", folder / "engine"):
        shutil.rmtree(scratch, ignore_errors=True)


@torch.no_grad()
def _test(model: AnomalibModule, batches: Any, folder: Path, device: str) -> Row:
    """Score the test images with what the network gives, before anomalib squeezes scores into [0, 1]."""
    model = model.eval().to(device)
    pre_processor: Any = model.pre_processor
    rows: list[Row] = []
    maps, masks = [], []
    for loaded in batches:
        batch = move_data_to_device(loaded, torch.device(device))
        pre_processor.on_test_batch_start(None, None, batch, 0)
        output: Any = model.validation_step(batch, 0)
        scores = output.anomaly_map.flatten(1).amax(dim=1) if output.pred_score is None else output.pred_score
        rows += [
            {"image": path, "label": int(label), "score": score}
            for path, label, score in zip(
                batch.image_path, batch.gt_label.tolist(), scores.flatten().tolist(), strict=True
            )
        ]
        if output.anomaly_map is not None:
            maps.append(output.anomaly_map.float().cpu().numpy().reshape(len(scores), *output.anomaly_map.shape[-2:]))
            if batch.gt_mask is not None:
                masks.append(batch.gt_mask.cpu().numpy().reshape(maps[-1].shape) > 0)
    write_table(rows, folder / "scores.csv")
    for name, arrays in (("maps", maps), ("masks", masks)):
        (folder / f"{name}.npy").unlink(missing_ok=True)
        if arrays:
            np.save(folder / f"{name}.npy", np.concatenate(arrays))
    post_processor: Any = model.post_processor
    thresholds = (post_processor.image_threshold.item(), post_processor.pixel_threshold.item())
    image, pixel = (value if np.isfinite(value) else None for value in thresholds)
    return {"threshold": image, "pixel_threshold": pixel}


def _export(engine: Engine, model: AnomalibModule, folder: Path) -> Row:
    """Export to OpenVINO; what cannot be exported is said, and the trial stands."""
    try:
        path = engine.export(model.cpu(), ExportType.OPENVINO, export_root=folder)
    except Exception as error:  # whatever the exporter meets
        return {"deployed_mb": None, "not_exported": first_line(error)}
    size = sum(file.stat().st_size for file in Path(str(path)).parent.iterdir() if file.suffix in {".xml", ".bin"})
    return {"deployed_mb": round(size / 1e6, 2), "not_exported": None}


def peak_memory_mb(device: str) -> float | None:
    """Peak of this process's memory, or of the GPU's.

    Args:
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        float | None: Megabytes; None where the system does not tell.
    """
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    status = Path("/proc/self/status")  # getrusage would count the peak of the parent before this process started
    lines = status.read_text().splitlines() if status.exists() else []
    return next((round(int(line.split()[1]) * 1024 / 1e6, 1) for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    """Run the trial in the folder that is named on the command line; a failure's reason is in ``error.txt``."""
    folder = Path(sys.argv[1])
    try:
        # The lock is this process's own: where the command is killed, the trial goes on, and a second one waits for it.
        with FileLock(folder / "lock"):
            if not (folder / "result.json").exists():
                run(Trial.read(folder / "trial.json"), folder)
    except Exception as error:
        is_full = shutil.disk_usage(folder).free < NO_SPACE
        shutil.rmtree(folder / "engine", ignore_errors=True)  # it may hold half a checkpoint
        with suppress(OSError):
            write_text(folder / "error.txt", "there is no space left on the disk" if is_full else first_line(error))
        raise


if __name__ == "__main__":
    main()

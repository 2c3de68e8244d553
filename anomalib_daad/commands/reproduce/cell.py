# SPDX-License-Identifier: Apache-2.0

"""One cell of a table: a system trained and tested once, on one category with one seed."""

import json
import re
import shutil
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.engine import Engine
from sklearn.metrics import roc_auc_score

from anomalib_daad.commands.shared.machine import describe_commit
from anomalib_daad.commands.shared.output_folder import Row, write_table, write_text
from anomalib_daad.commands.shared.pixel_measures import measure_pixels
from anomalib_daad.commands.shared.resume_point import ResumePoint
from anomalib_daad.data.one_class_cifar10 import OneClassCIFAR10
from anomalib_daad.data.one_class_mnist import OneClassMNIST
from anomalib_daad.registration import MODELS, Model
from anomalib_daad.training.checkpoint_content import FORMAT

from .systems import SYSTEMS

# Of classes of images the paper tells no more than the protocol. Flipped digits become others; 32 pixels leave 4 after
# three scales, as DCGAN's do; blocks smaller than the image, or many items, rebuild the other classes as well (see
# docs/papers.md). A system's own arguments come first.
_ONE_CLASS = {
    "base_channels": 32,
    "division_rates": (1, 1, 1),
    "num_items": 16,
    "learning_rate": 1e-3,
    "flips": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {"mvtec": {"flips": True}, "mnist": _ONE_CLASS, "cifar10": _ONE_CLASS}
_OFF: dict[str, Any] = {"visualizer": False, "evaluator": False}
_NO_PIXELS: Row = {"auroc_pixel": None, "aupro": None}


@dataclass(frozen=True)
class Cell:
    """What identifies a run; two tables that need the same run share it.

    Attributes:
        dataset (str): ``"mvtec"``, ``"mnist"`` or ``"cifar10"``.
        system (str): Name in ``SYSTEMS``.
        category (str): Category, or normal class.
        image_size (int): Height and width.
        epochs (int): Epochs; without effect where ``steps`` is given.
        steps (int | None): Steps.
        batch_size (int): Images a step.
        precision (str): Lightning's precision of the training.
        arguments (str): Arguments of the model laid over the system's, a JSON object; empty for none.
        seed (int): Seed.
        format (int): Format of the models: what another one's cells gave is not mixed with these.
    """

    dataset: str
    system: str
    category: str
    image_size: int
    epochs: int
    steps: int | None
    batch_size: int
    precision: str
    arguments: str
    seed: int
    format: int = FORMAT

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        length = f"{self.epochs}epochs" if self.steps is None else f"{self.steps}steps"
        system = re.sub(r"[^\w+]+", "_", self.system)
        size = f"{self.image_size}px_batch{self.batch_size}_{self.precision}"
        changed = f"_{sha256(self.arguments.encode()).hexdigest()[:8]}" if self.arguments else ""
        return f"{self.dataset}_{system}{changed}_{self.category}_{size}_{length}_seed{self.seed}_format{self.format}"

    def build(self) -> Model:
        """Build the model.

        Returns:
            Model: Model, not trained.

        Raises:
            ValueError: If the image size and the division rates do not fit, or the model has no such argument.
        """
        system = SYSTEMS[self.system]
        model = MODELS[system.model]
        # In the order of the signature; what is missing is the cell's own.
        known = [name for name in signature(model).parameters if name not in {"image_size", "seed", *_OFF}]
        defaults = {key: value for key, value in DEFAULTS[self.dataset].items() if key in known}
        changes = json.loads(self.arguments or "{}")
        if unknown := [name for name in changes if name not in known]:
            msg = f"--model cannot set {', '.join(unknown)} of {system.model}; choose among {', '.join(known)}."
            raise ValueError(msg)
        arguments = {**defaults, **system.arguments, **changes, **_OFF, "seed": self.seed}
        try:
            return model(image_size=(self.image_size, self.image_size), **arguments)
        except TypeError as error:
            msg = f"--model {self.arguments} does not fit {system.model}: {error}."
            raise ValueError(msg) from error

    def read(self, data: Path) -> AnomalibDataModule:
        """Prepare the data.

        Args:
            data (Path): Root of the data.

        Returns:
            AnomalibDataModule: Datamodule.
        """
        if self.dataset == "mvtec":
            return MVTecAD(data, self.category, self.batch_size, eval_batch_size=16, num_workers=0)
        if self.dataset == "mnist":
            return OneClassMNIST(data, int(self.category), self.batch_size)
        return OneClassCIFAR10(data, self.category, self.batch_size)


def run(cell: Cell, data: Path, folder: Path, device: str, keep_checkpoint: bool) -> Row:
    """Train and test a cell; a training that was stopped goes on from its last checkpoint.

    Args:
        cell (Cell): Cell.
        data (Path): Root of the data.
        folder (Path): Folder of the cell: gets ``scores.csv``, ``result.json`` and ``model.ckpt``.
        device (str): ``"cpu"`` or ``"cuda"``.
        keep_checkpoint (bool): Keep ``model.ckpt``.

    Returns:
        Row: What identifies the cell, its measures, duration and commit.
    """
    start = time.perf_counter()
    model, datamodule = cell.build(), cell.read(data)
    resume = folder / "resume"
    interval = 5 if cell.steps else max(1, min(cell.epochs // 20, 50))  # epochs
    engine = Engine(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=cell.precision,
        max_epochs=-1 if cell.steps else cell.epochs,
        max_steps=cell.steps or -1,
        limit_val_batches=0,  # ranges come from the last epoch; validation would cost time and choose nothing
        default_root_dir=folder / "engine",
        logger=False,
        enable_model_summary=False,
        callbacks=[ResumePoint(resume, "last", enable_version_counter=False, every_n_epochs=interval)],
    )
    last = resume / "last.ckpt"
    earlier = json.loads((folder / "earlier.json").read_text()) if (folder / "earlier.json").exists() else 0.0
    if not last.exists():
        earlier = 0.0
    try:
        engine.fit(model, datamodule=datamodule, ckpt_path=last if last.exists() else None)
    finally:
        write_text(folder / "earlier.json", json.dumps(earlier + time.perf_counter() - start))
    trained = earlier + time.perf_counter() - start
    if keep_checkpoint:
        engine.trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    measures = evaluate(model, datamodule, folder / "scores.csv", device)
    row = {**asdict(cell), "trained_steps": engine.trainer.global_step, "train_seconds": round(trained, 1)}
    row |= {"seconds": round(earlier + time.perf_counter() - start, 1), "commit": describe_commit(), **measures}
    write_text(folder / "result.json", json.dumps(row, indent=1))
    for scratch in (resume, folder / "engine"):
        shutil.rmtree(scratch, ignore_errors=True)
    return row


@torch.no_grad()
def evaluate(model: Model, datamodule: AnomalibDataModule, scores_path: Path, device: str) -> Row:
    """Score the test images.

    Args:
        model (Model): Trained model.
        datamodule (AnomalibDataModule): Data, set up.
        scores_path (Path): File for R, L, fused score and label of each image.
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        Row: Image AUROC of R, L (None without) and the fused score; pixel AUROC and AUPRO where there are masks.
    """
    model = model.eval().to(device)
    pre_processor: Any = model.pre_processor
    rows: list[Row] = []
    maps, masks = [], []
    for batch in datamodule.test_dataloader():
        pre_processor.on_test_batch_start(None, None, batch, 0)
        images = batch.image.to(device)
        parts = model.model.scores(images)
        alignment = [None] * len(images) if parts.alignment is None else parts.alignment.tolist()
        paths = zip(batch.image_path, batch.gt_label.tolist(), strict=True)
        output = model.model(images)
        values = zip(parts.reconstruction.tolist(), alignment, output.pred_score.tolist(), strict=True)
        rows += [
            {"image": path, "label": int(label), "R": r, "L": l_x, "fused": fused}
            for (path, label), (r, l_x, fused) in zip(paths, values, strict=True)
        ]
        if batch.gt_mask is not None:
            maps.append(output.anomaly_map.cpu())
            masks.append(batch.gt_mask.cpu())
    write_table(rows, scores_path)
    labels = [row["label"] for row in rows]
    measures: Row = {
        f"auroc_{part}": None if rows[0][part] is None else round(roc_auc_score(labels, [row[part] for row in rows]), 6)
        for part in ("R", "L", "fused")
    }
    return measures | (measure_pixels(torch.cat(maps), torch.cat(masks)) if maps else _NO_PIXELS)

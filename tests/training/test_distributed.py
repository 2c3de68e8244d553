# SPDX-License-Identifier: Apache-2.0

"""Two processes train one model, through anomalib's Engine and Lightning's DDP."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from conftest import SMALL, SMALL_RESTORATION
from sklearn.metrics import roc_auc_score

from anomalib_daad import Daad, DaadRestoration

KINDS = {
    "daad_plus": (Daad, {**SMALL, "learning_rate": 1e-3}),
    "restoration": (DaadRestoration, {**SMALL_RESTORATION, "placement_radius": 1}),
}
SCRIPT = """
import sys
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib_daad import Daad, DaadRestoration
from anomalib_daad.training.distributed import gather


def train(name, kind, arguments, root, output, devices):
    model = kind(**arguments)
    datamodule = MVTecAD(root, "part", train_batch_size=6 // devices, eval_batch_size=2, num_workers=0)
    strategy = "ddp" if devices == 2 else "auto"
    engine = Engine(
        accelerator="cpu", devices=devices, strategy=strategy, max_epochs=40, check_val_every_n_epoch=20,
        enable_progress_bar=False, default_root_dir=f"{output}/{name}",
    )
    engine.fit(model, datamodule=datamodule)
    gathered = gather(torch.full((model.global_rank + 1,), float(model.global_rank)))
    torch.save(
        {
            "state": model.state_dict(), "gathered": gathered, "steps": engine.trainer.global_step,
            "checkpoint": engine.trainer.checkpoint_callback.best_model_path,
        },
        f"{output}/{name}{model.global_rank}.pt",
    )


if __name__ == "__main__":
    root, output, devices = sys.argv[1:]
    for name, (kind, arguments) in KINDS.items():
        train(name, kind, arguments, root, output, int(devices))
"""


@pytest.fixture(scope="module")
def outputs(data_root, tmp_path_factory) -> dict[int, Path]:
    """Folder of what was trained by one process, and by two; both train every kind, since processes take seconds."""
    folder = tmp_path_factory.mktemp("distributed")
    script = folder / "train.py"
    known = ", ".join(f"{name!r}: ({kind.__name__}, {arguments!r})" for name, (kind, arguments) in KINDS.items())
    script.write_text(SCRIPT.replace("KINDS.items()", f"{{{known}}}.items()"))
    found = {}
    for devices in (1, 2):
        found[devices] = folder / str(devices)
        found[devices].mkdir()
        arguments = [str(script), str(data_root), str(found[devices]), str(devices)]
        if devices == 1:
            with pytest.MonkeyPatch.context() as patch:  # in this process, which has imported all that it needs
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(str(script), run_name="__main__")
            continue
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
    return found


@pytest.fixture(scope="module", params=KINDS)
def runs(request, outputs) -> dict:
    """What each process held after training, by the number of processes; and the kind of model."""
    held = {
        devices: [torch.load(folder / f"{request.param}{rank}.pt", weights_only=True) for rank in range(devices)]
        for devices, folder in outputs.items()
    }
    return {"kind": KINDS[request.param][0], **held}


def test_processes_hold_the_same_weights_and_ranges(runs) -> None:
    first, second = runs[2]
    assert first["steps"] == second["steps"] == runs[1][0]["steps"]
    for key, value in first["state"].items():
        torch.testing.assert_close(second["state"][key], value, rtol=0, atol=0, equal_nan=True, msg=key)


def test_scores_are_gathered_over_processes(runs) -> None:
    for rank in runs[2]:
        assert rank["gathered"].tolist() == [0.0, 1.0, 1.0]
    assert runs[1][0]["gathered"].tolist() == [0.0]


def test_ranges_cover_the_images_of_both_processes(runs, make_datamodule) -> None:
    model = runs["kind"].load_from_checkpoint(runs[2][0]["checkpoint"]).eval()
    datamodule = make_datamodule()
    datamodule.setup()
    with torch.no_grad():
        batches = [
            batch.image[batch.gt_label == 0] if model.calibrates_on_good else batch.image
            for batch in datamodule.val_dataloader()
        ]
        scores = [model.model.scores(model.pre_processor(images)) for images in batches if len(images)]
    reconstruction = torch.cat([part.reconstruction for part in scores])
    expected = torch.stack(reconstruction.aminmax())
    torch.testing.assert_close(model.model.score.reconstruction_range, expected, rtol=1e-3, atol=1e-5)


def test_two_processes_detect_what_one_does(runs, make_datamodule, make_engine) -> None:
    for devices in (1, 2):
        model = runs["kind"].load_from_checkpoint(runs[devices][0]["checkpoint"])
        engine: Engine = make_engine()
        predictions = engine.predict(model, datamodule=make_datamodule())
        labels = torch.cat([batch.gt_label for batch in predictions])
        scores = torch.cat([batch.pred_score for batch in predictions])
        assert roc_auc_score(labels, scores) > 0.9

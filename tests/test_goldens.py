# SPDX-License-Identifier: Apache-2.0

"""Numbers of five steps of every system that were recorded once: no change moves them.

They hold on the kind of processor and the version of PyTorch that they were recorded with; elsewhere sums are added up
in another order, and the test is skipped.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from conftest import draw_data
from lightning.pytorch.callbacks import Callback

from anomalib_daad import Daad, DaadRestoration, MemAe, Mnad

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())
SMALL = {"image_size": (64, 64), "seed": 0}
PAPER = {"addressing": "paper"}
MNIST = {**PAPER, "image_size": (32, 32), "seed": 0, "base_channels": 32, "division_rates": (1, 1, 1), "num_items": 16}
PIXELS = {"connections": "bottleneck_memory", "division_rates": None}
SYSTEMS = {
    "ae": lambda: Daad(**SMALL, connections="none", adversarial=False),
    "memae_daad": lambda: Daad(**SMALL, **PAPER, **PIXELS, adversarial=False),
    "daad": lambda: Daad(image_size=(128, 128), seed=0, adversarial=False, **PAPER),
    "daad_sharp": lambda: Daad(image_size=(128, 128), seed=0, adversarial=False),
    "daad_plus": lambda: Daad(image_size=(128, 128), seed=0, **PAPER),
    "memae": lambda: MemAe(**SMALL),
    "mnad": lambda: Mnad(**SMALL),
    "one_class_mnist": lambda: Daad(**MNIST, learning_rate=1e-3, flips=False),
    "daad_restoration_cpu": lambda: DaadRestoration(seed=0, base_channels=32),
}


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return draw_data(tmp_path_factory.mktemp("discs"), scale=5)


class Losses(Callback):
    def __init__(self) -> None:
        self.rows = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train_")})


@pytest.mark.skipif(
    (torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability())
    != (GOLDENS["torch"], GOLDENS["capability"]),
    reason=f"numbers were recorded with PyTorch {GOLDENS['torch']} on a processor with {GOLDENS['capability']} alone",
)
@pytest.mark.parametrize("name", SYSTEMS)
def test_five_steps_give_the_numbers_that_they_gave(name, discs, tmp_path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, losses = SYSTEMS[name](), Losses()
    model.visualizer = None
    datamodule = MVTecAD(root=discs, category="part", train_batch_size=4, eval_batch_size=4, num_workers=0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, max_steps=5, max_epochs=-1, callbacks=[losses], **quiet
    )
    engine.fit(model, datamodule=datamodule)
    engine.validate(model, datamodule=datamodule, verbose=False)
    network = model.model.eval()
    images = model.pre_processor.transform(torch.stack([item.image for item in datamodule.test_data]))
    with torch.no_grad():
        output, parts = network(images), network.scores(images)
        exported = model.inference_model()(images)
    torch.set_num_threads(threads)
    golden = GOLDENS["numbers"][name]
    for row, expected in zip(losses.rows, golden["losses"], strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    total = sum(float(value.double().nan_to_num().abs().sum()) for value in network.state_dict().values())
    assert total == pytest.approx(golden["weights"], rel=1e-8)
    np.testing.assert_allclose(parts.reconstruction, golden["R"], rtol=1e-6)
    assert (parts.alignment is None) == (golden["L"] is None)
    if parts.alignment is not None:
        np.testing.assert_allclose(parts.alignment, golden["L"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(output.pred_score, golden["scores"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(exported.pred_score, golden["inference"], rtol=1e-6, atol=1e-6)
    assert float(output.anomaly_map.double().mean()) == pytest.approx(golden["map_mean"], rel=1e-6)

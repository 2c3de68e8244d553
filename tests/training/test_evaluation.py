# SPDX-License-Identifier: Apache-2.0

"""AUROC in validation is that of the raw scores, however large they are."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from conftest import make_model, make_restoration
from lightning.pytorch.callbacks import Callback, EarlyStopping
from sklearn.metrics import roc_auc_score

from anomalib_daad import DaadRestoration, MemAe, Mnad
from anomalib_daad.training.evaluation import configure_evaluator


def batches(rng: np.random.Generator, scale: float, shift: float) -> list[ImageBatch]:
    """Batches of which some leave [0, 1] and some do not."""
    result = []
    for index in range(5):
        labels = torch.from_numpy(rng.integers(0, 2, 7)).bool()
        masks = torch.from_numpy(rng.random((7, 8, 8)) < 0.2) & labels[:, None, None]
        spread = scale if index % 2 else 0.01
        scores = torch.from_numpy(0.5 + shift * (index % 2) + spread * (rng.standard_normal(7) + labels.numpy()))
        maps = torch.from_numpy(
            0.5 + shift * (index % 2) + spread * (rng.standard_normal((7, 1, 8, 8)) + masks.numpy()[:, None])
        )
        batch = ImageBatch(image=torch.zeros(7, 3, 8, 8), gt_label=labels, gt_mask=masks)
        result.append(batch.update(pred_score=scores.float(), anomaly_map=maps.float()))
    return result


def truth(given: list[ImageBatch]) -> tuple[float, float]:
    labels, scores = (torch.cat([getattr(it, key) for it in given]).numpy() for key in ("gt_label", "pred_score"))
    pixels = [torch.cat([getattr(it, key).flatten() for it in given]).numpy() for key in ("gt_mask", "anomaly_map")]
    return roc_auc_score(labels, scores), roc_auc_score(*pixels)


@pytest.mark.parametrize(("scale", "shift"), [(0.1, 0.0), (3.0, 0.0), (50.0, -40.0), (5.0, 20.0)])
def test_ranks_of_scores_outside_0_to_1_count_over_all_batches(scale, shift) -> None:
    given = batches(np.random.default_rng(0), scale, shift)
    measured = {}
    for measure in configure_evaluator().val_metrics:
        for batch in given:
            measure.update(batch)
        measured[measure.name] = measure.compute().item()
    image, pixel = truth(given)
    assert measured == {"image_AUROC": pytest.approx(image, abs=1e-6), "pixel_AUROC": pytest.approx(pixel, abs=1e-6)}


def test_anomalibs_own_squashes_batch_by_batch() -> None:
    """What the class is for: where this fails, it is no longer needed."""
    given = batches(np.random.default_rng(0), 5.0, 20.0)
    measure = AUROC(fields=["pred_score", "gt_label"])
    for batch in given:
        measure.update(batch)
    assert abs(measure.compute().item() - truth(given)[0]) > 0.01


def test_an_infinite_score_is_the_worst() -> None:
    (measure, _) = configure_evaluator().val_metrics
    scores = torch.tensor([torch.inf, 3.0, -2.0, 0.5])
    batch = ImageBatch(image=torch.zeros(4, 3, 8, 8), gt_label=torch.tensor([True, True, False, False]))
    measure.update(batch.update(pred_score=scores))
    assert measure.compute() == 1


class Watch(Callback):
    """Scores each batch of a validation itself."""

    def on_validation_start(self, trainer, pl_module) -> None:
        del trainer, pl_module
        self.seen: list = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        del trainer, batch, batch_idx, dataloader_idx
        found = pl_module.model(outputs.image.as_subclass(torch.Tensor))
        self.seen.append((found, outputs.gt_label.clone(), outputs.gt_mask.clone()))


@pytest.mark.parametrize("build", [make_model, make_restoration], ids=["Daad", "DaadRestoration"])
def test_a_validation_logs_the_auroc_of_its_raw_scores(build, make_datamodule, make_engine) -> None:
    watch = Watch()
    engine = make_engine(max_epochs=2, callbacks=[watch])
    engine.fit(build(), datamodule=make_datamodule())
    labels, scores, masks, maps = (
        torch.cat([part.flatten() for part in parts]).numpy()
        for parts in zip(
            *((labels, found.pred_score, masks, found.anomaly_map) for found, labels, masks in watch.seen), strict=True
        )
    )
    logged = engine.trainer.callback_metrics
    assert logged["image_AUROC"].item() == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert logged["pixel_AUROC"].item() == pytest.approx(roc_auc_score(masks, maps), abs=1e-6)


@pytest.mark.parametrize("kind", [DaadRestoration, MemAe, Mnad])
def test_all_models_log_it_and_can_be_stopped_by_it(kind, make_datamodule, make_engine) -> None:
    small = {"base_channels": 4, "seed": 0}
    model = make_restoration() if kind is DaadRestoration else kind(image_size=(32, 32), num_items=5, **small)
    stopping = EarlyStopping(monitor="pixel_AUROC", mode="max", patience=1, min_delta=1.0)  # nothing improves so much
    engine = make_engine(max_epochs=9, callbacks=[stopping])
    engine.fit(model, datamodule=make_datamodule())
    assert engine.trainer.current_epoch == 2
    assert {"image_AUROC", "pixel_AUROC"} <= engine.trainer.callback_metrics.keys()


def test_a_test_has_anomalibs_measures() -> None:
    names = {metric.name for metric in make_model().evaluator.test_metrics}
    assert names == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}

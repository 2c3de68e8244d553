# SPDX-License-Identifier: Apache-2.0

"""The ranges of the scores are those of the validation images, or without validation those of training."""

import numpy as np
import pytest
import torch
from conftest import make_model, raw_scores
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader


@pytest.mark.parametrize("adversarial", [True, False])
def test_ranges_and_auroc_are_those_of_the_validation_images(make_datamodule, make_engine, adversarial) -> None:
    model, datamodule = make_model(adversarial=adversarial), make_datamodule()
    engine = make_engine(max_epochs=2)
    metrics = engine.train(model, datamodule=datamodule)[0]
    reconstruction, alignment, labels = raw_scores(model, datamodule, "val")
    score = model.model.score
    torch.testing.assert_close(score.reconstruction_range, torch.stack(reconstruction.aminmax()))
    fused = (reconstruction - reconstruction.min()) / (reconstruction.max() - reconstruction.min())
    if adversarial:
        torch.testing.assert_close(score.alignment_range, torch.stack(alignment.aminmax()))
        scaled = (alignment - alignment.min()) / (alignment.max() - alignment.min())
        fused = 0.9 * fused + 0.1 * scaled
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(labels, fused), abs=1e-6)
    # What the post-processor read was scaled already: the fused scores of the split, not those of an older range.
    torch.testing.assert_close(model.post_processor.image_min, fused.min(), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.post_processor.image_max, fused.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("limit", [1, 2])
def test_ranges_follow_a_limited_validation(make_datamodule, make_engine, limit) -> None:
    model, datamodule = make_model(), make_datamodule()
    make_engine(max_epochs=1, limit_val_batches=limit).fit(model, datamodule=datamodule)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(
        model.model.score.reconstruction_range, torch.stack(reconstruction[: 4 * limit].aminmax())
    )


@pytest.mark.parametrize(
    ("data_arguments", "trainer_arguments"),
    [
        ({"val_split_mode": "none"}, {"max_epochs": 1, "limit_val_batches": 0}),
        ({}, {"max_epochs": 1, "limit_val_batches": 0}),
        ({}, {"max_steps": 2}),
        ({}, {"max_epochs": 2, "check_val_every_n_epoch": 3}),
    ],
)
def test_without_validation_the_training_scores_set_the_ranges(
    make_datamodule, make_engine, data_arguments, trainer_arguments
) -> None:
    model, datamodule = make_model(), make_datamodule(**data_arguments)
    seen = []
    loss = model.generator_loss
    hook = loss.register_forward_hook(lambda _, __, terms: seen.append(terms))
    engine = make_engine(**trainer_arguments)
    engine.fit(model, datamodule=datamodule)
    hook.remove()
    last_epoch = seen[-min(3, len(seen)) :]
    errors = torch.cat([terms.reconstruction for terms in last_epoch]).detach()
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(errors.aminmax()))
    predictions = engine.predict(model, datamodule=datamodule)
    assert all(batch.pred_score.isfinite().all() for batch in predictions)


def test_validation_ranges_outlive_epochs_without_validation(make_datamodule, make_engine) -> None:
    class Remember(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            del trainer
            self.range = pl_module.model.score.reconstruction_range.clone()

    model, remember = make_model(), Remember()
    make_engine(max_epochs=3, check_val_every_n_epoch=2, callbacks=[remember]).fit(model, datamodule=make_datamodule())
    assert torch.equal(model.model.score.reconstruction_range, remember.range)


@pytest.mark.parametrize("mode", ["same_as_test", "from_test", "synthetic", "from_train"])
def test_every_validation_split_gives_finite_scores(make_datamodule, make_engine, mode) -> None:
    engine = make_engine(max_epochs=1)
    model, datamodule = make_model(), make_datamodule(val_split_mode=mode, seed=0)
    metrics = engine.train(model, datamodule=datamodule)[0]
    assert all(np.isfinite(value) for value in metrics.values())
    assert model.model.score.reconstruction_range.isfinite().all()
    assert model.model.score.alignment_range.isfinite().all()


def test_persistent_workers_survive_calibration(make_datamodule, make_engine) -> None:
    datamodule = make_datamodule()
    datamodule.setup()
    loaders = [
        DataLoader(data, batch_size=4, collate_fn=data.collate_fn, num_workers=1, persistent_workers=True)
        for data in (datamodule.train_data, datamodule.val_data)
    ]
    model = make_model()
    make_engine(max_epochs=2).fit(model, *loaders)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(reconstruction.aminmax()))


def test_validate_alone_calibrates_on_its_loader(make_datamodule, make_engine) -> None:
    model, datamodule = make_model(), make_datamodule()
    make_engine().validate(model, datamodule=datamodule)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(reconstruction.aminmax()))

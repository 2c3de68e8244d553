# SPDX-License-Identifier: Apache-2.0

"""Training, checkpoints and tests through anomalib's Engine."""

import pytest
from anomalib.data import Folder
from conftest import assert_same_weights, make_model, raw_scores, weights

from anomalib_daad import Daad


def test_fit_reload_test_gives_identical_metrics(make_datamodule, make_engine) -> None:
    model, datamodule = make_model(), make_datamodule()
    engine = make_engine(max_epochs=2)
    engine.fit(model, datamodule=datamodule)
    expected = engine.test(model, datamodule=datamodule)
    path = engine.trainer.checkpoint_callback.best_model_path

    reloaded = Daad.load_from_checkpoint(path)
    assert_same_weights(weights(model), weights(reloaded))
    assert make_engine().test(reloaded, datamodule=make_datamodule()) == expected
    assert make_engine().test(make_model(), datamodule=make_datamodule(), ckpt_path=path) == expected


def test_max_steps_counts_batches_not_optimizers(make_datamodule, make_engine) -> None:
    engine = make_engine(max_steps=5, max_epochs=-1)
    model = make_model()
    engine.fit(model, datamodule=make_datamodule())
    steps = {int(entry["step"]) for optimizer in engine.trainer.optimizers for entry in optimizer.state.values()}
    assert engine.trainer.global_step == 5
    assert steps == {5}


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("adversarial", [True, False])
def test_training_learns_to_reconstruct(make_datamodule, make_engine, precision, adversarial) -> None:
    model, datamodule = make_model(adversarial=adversarial, learning_rate=2e-3), make_datamodule()
    datamodule.setup()
    before, _, _ = raw_scores(model, datamodule, "train")
    make_engine(max_epochs=10, precision=precision, limit_val_batches=0).fit(model, datamodule=datamodule)
    after, _, _ = raw_scores(model, datamodule, "train")
    assert after.mean() < 0.7 * before.mean()


def test_the_user_sets_the_number_of_epochs() -> None:
    assert not {"max_epochs", "max_steps", "precision"} & make_model().trainer_arguments.keys()


def test_folder_datamodule_without_masks_or_defects(data_root, make_engine) -> None:
    datamodule = Folder(
        name="own",
        root=data_root / "part",
        normal_dir="train/good",
        train_batch_size=5,  # the last batch holds two images
        num_workers=0,
        val_split_mode="from_train",
        test_split_mode="none",
        seed=0,
    )
    model = make_model()
    engine = make_engine(max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    predictions = engine.predict(model, dataloaders=datamodule.train_dataloader())
    assert all(batch.pred_score.isfinite().all() for batch in predictions)

# SPDX-License-Identifier: Apache-2.0

"""Data sets with too little in them, too much of one thing, or masks that do not fit."""

import math
import shutil

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from conftest import as_if_trained, make_model, make_restoration
from PIL import Image


@pytest.fixture
def root(data_root, tmp_path):
    """A copy of the data set that a test may spoil."""
    return shutil.copytree(data_root, tmp_path / "data")


def keep(folder, count: int) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


def constant(root) -> None:
    for path in (root / "part").glob("t*/*/*.png"):
        Image.new("RGB", (40, 48), (128, 128, 128)).save(path)


def alike(root) -> None:
    first, *others = sorted((root / "part/train/good").iterdir())
    for path in others:
        shutil.copy(first, path)


def resize_masks(root, size: tuple[int, int]) -> None:
    for path in (root / "part/ground_truth/bar").iterdir():
        with Image.open(path) as mask:
            resized = mask.resize(size, Image.Resampling.NEAREST)
        resized.save(path)


def no_defects(root) -> None:
    keep(root / "part/test/bar", 0)
    keep(root / "part/ground_truth/bar", 0)


WORK = {
    "one image": lambda root: keep(root / "part/train/good", 1),
    "fewer than a batch": lambda root: keep(root / "part/train/good", 3),
    "a last batch of one": lambda root: keep(root / "part/train/good", 5),
    "duplicates": alike,
    "constant images": constant,
    "no defective images": no_defects,
    "no good test images": lambda root: keep(root / "part/test/good", 0),
    "masks of half the size": lambda root: resize_masks(root, (20, 24)),
    "masks of another shape": lambda root: resize_masks(root, (100, 24)),
}


@pytest.mark.parametrize("build", [make_model, make_restoration])
@pytest.mark.parametrize("case", WORK)
def test_works(root, make_engine, case, build) -> None:
    """Training calibrates, and every test image gets a finite score and a label."""
    WORK[case](root)
    datamodule = MVTecAD(root, "part", train_batch_size=4, eval_batch_size=4, num_workers=0)
    model, engine = build(visualizer=False), make_engine(max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.model.score.reconstruction_range.isfinite().all()
    batches = engine.predict(model, datamodule=datamodule)
    scores = torch.cat([batch.pred_score for batch in batches])
    assert len(scores) == len(datamodule.test_data) >= len(list((root / "part/test").rglob("*.png")))
    assert scores.isfinite().all()
    assert all(batch.pred_label.dtype == torch.bool for batch in batches)
    metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
    assert all(math.isfinite(value) for value in metrics.values())


def test_no_image_is_refused(root, make_engine) -> None:
    keep(root / "part/train/good", 0)
    datamodule = MVTecAD(root, "part", num_workers=0)
    with pytest.raises(ValueError, match="The data set MVTecAD has no training image; training needs at least one"):
        make_engine(max_epochs=1).fit(make_model(), datamodule=datamodule)


def test_duplicates_score_alike(root, make_engine) -> None:
    alike(root)
    datamodule = MVTecAD(root, "part", train_batch_size=4, num_workers=0)
    model = make_model(visualizer=False)
    make_engine(max_epochs=1).fit(model, datamodule=datamodule)
    batches = make_engine().predict(model, data_path=root / "part/train/good")
    scores = [float(batch.pred_score) for batch in batches]
    assert len(scores) == 12
    np.testing.assert_array_equal(scores, scores[0])


def test_masks_are_resized_with_their_images(root, make_engine) -> None:
    """Masks of another size are stretched onto the image: a mask of twice the size changes no metric much."""
    metrics = []
    for size in ((40, 48), (80, 96)):
        resize_masks(root, size)
        datamodule = MVTecAD(root, "part", num_workers=0)
        model = as_if_trained(make_model(visualizer=False))
        metrics.append(make_engine().test(model, datamodule=datamodule, verbose=False)[0])
    assert metrics[1]["pixel_AUROC"] == pytest.approx(metrics[0]["pixel_AUROC"], abs=0.02)
    assert metrics[1]["image_AUROC"] == metrics[0]["image_AUROC"]

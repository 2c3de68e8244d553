# SPDX-License-Identifier: Apache-2.0

"""Keeping decoded images in memory changes nothing but the speed."""

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from conftest import as_if_trained, make_model
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, Resize

from anomalib_daad.training.image_cache import CachedDataset, ImageCache, cache_images


def make_loader(data_root, augmentations=None, **arguments) -> DataLoader:
    datamodule = MVTecAD(data_root, "part", train_augmentations=augmentations, **arguments)
    datamodule.setup("fit")
    return datamodule.train_dataloader()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_batches_in_the_same_order(data_root, num_workers) -> None:
    loader = make_loader(data_root, Resize((32, 32)), train_batch_size=4, num_workers=num_workers)
    (cached,) = cache_images([loader], max_bytes=1e9)
    assert isinstance(cached.dataset, CachedDataset)
    for _ in range(2):  # read, then from memory
        torch.manual_seed(1)
        expected = list(loader)
        torch.manual_seed(1)
        actual = list(cached)
        assert [batch.image_path for batch in actual] == [batch.image_path for batch in expected]
        for batch, other in zip(actual, expected, strict=True):
            assert torch.equal(batch.image, other.image)


def test_files_are_read_once(data_root, monkeypatch) -> None:
    (cached,) = cache_images([make_loader(data_root, num_workers=0)], max_bytes=1e9)
    list(cached)
    monkeypatch.setattr("anomalib.data.datasets.base.image.read_image", None)
    assert sum(len(batch.image) for batch in cached) == len(cached.dataset)


@pytest.mark.parametrize("augmentations", [RandomHorizontalFlip(), Compose([RandomHorizontalFlip(), Resize((32, 32))])])
def test_augmented_images_are_not_kept(data_root, augmentations) -> None:
    loader = make_loader(data_root, augmentations, num_workers=0)
    assert cache_images([loader], max_bytes=1e9) == [loader]


def test_only_what_fits_is_kept(data_root) -> None:
    loader = make_loader(data_root, Resize((32, 32)), num_workers=0)
    item = loader.dataset[0]
    size = len(loader.dataset) * (item.image.nbytes + item.gt_mask.nbytes + item.gt_label.nbytes)
    first, second = cache_images([loader, loader], max_bytes=1.5 * size)
    assert isinstance(first.dataset, CachedDataset)
    assert second is loader
    assert cache_images([loader], max_bytes=size - 1) == [loader]
    assert isinstance(cache_images([loader], max_bytes=size)[0].dataset, CachedDataset)


def test_images_of_mixed_sizes_stay_as_they_are_and_below_the_limit(tmp_path) -> None:
    """anomalib's collate enlarges images to the largest of their batch."""
    sizes = [(24, 24)] * 11 + [(150, 110)]
    for index, size in enumerate(sizes):
        path = tmp_path / "part/train/good" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*size, 3), index, np.uint8))
    dataset = MVTecADDataset(tmp_path, "part", split="train")
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=dataset.collate_fn)
    (cached,) = cache_images([loader], max_bytes=1e9)
    limit = cached.dataset.left
    for _ in range(4):
        for batch in cached:
            numbers = [int(path[-7:-4]) for path in batch.image_path]
            assert [round(image.mean().item() * 255) for image in batch.image] == numbers
    kept = cached.dataset._items
    assert kept.keys() == {*range(11)}  # the large one would take more than is left
    assert {item.image.shape[-2:] for item in kept.values()} == {(24, 24)}
    assert sum(item.image.nbytes for item in kept.values()) <= limit
    items = [cached.dataset[0], cached.dataset[0]]
    assert items[0] is not items[1]


def test_other_loaders_stay_as_they_are() -> None:
    loader = DataLoader(torch.zeros(3, 1))
    assert cache_images([loader, [1, 2]], max_bytes=1e9) == [loader, [1, 2]]


@pytest.mark.parametrize("seed", [0, None])
def test_training_gives_the_same_weights(data_root, make_engine, seed) -> None:
    states = []
    for max_gb in (0.0, 1.0):
        torch.manual_seed(3)
        model = make_model(seed=seed)
        datamodule = MVTecAD(data_root, "part", train_batch_size=4, eval_batch_size=4, num_workers=0)
        make_engine(max_epochs=3, callbacks=[ImageCache(max_gb)]).fit(model, datamodule=datamodule)
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0, equal_nan=True, msg=name)


# As a callback.


class Watch(Callback):
    """Notes in each epoch whether training and validation read images from memory."""

    def __init__(self) -> None:
        self.training: list[bool] = []
        self.validation: list[bool] = []

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        del pl_module
        loops = ((self.training, trainer.fit_loop), (self.validation, trainer.fit_loop.epoch_loop.val_loop))
        for seen, loop in loops:
            (loader,) = loop._combined_loader.flattened
            seen.append(isinstance(loader.dataset, CachedDataset))


@pytest.mark.parametrize(
    ("caches", "kept"),
    [([], True), ([ImageCache()], True), ([ImageCache(max_gb=0)], False), ([ImageCache(max_gb=1e-9)], False)],
)
def test_a_cache_of_the_trainer_wins_over_that_of_the_model(caches, kept, make_datamodule, make_engine) -> None:
    watch = Watch()
    engine = make_engine(max_epochs=3, callbacks=[*caches, watch])
    engine.fit(make_model(), datamodule=make_datamodule())
    assert watch.training == [kept] * 3
    assert watch.validation[-1] == kept
    assert sum(isinstance(callback, ImageCache) for callback in engine.trainer.callbacks) == 1
    assert not caches or caches[0] in engine.trainer.callbacks


def test_what_a_training_keeps_is_2_gb_unless_said() -> None:
    assert ImageCache().max_gb == 2.0
    with pytest.raises(ValueError, match="max_gb must not be negative, got -1; 0 keeps no images"):
        ImageCache(max_gb=-1)


def test_a_validation_and_a_test_alone_keep_nothing(make_datamodule, make_engine) -> None:
    for action in ("validate", "test"):
        engine = make_engine()
        getattr(engine, action)(as_if_trained(make_model()), datamodule=make_datamodule())
        loop = getattr(engine.trainer, f"{action}_loop")
        assert not any(isinstance(loader.dataset, CachedDataset) for loader in loop._combined_loader.flattened)

# SPDX-License-Identifier: Apache-2.0

"""The demo data: layout, determinism, regions, masks, and writes that are whole or not there."""

import errno
import os
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data, io

from anomalib_daad import DemoTextures

CATEGORIES = ["brick", "grass", "gravel"]
DEFECTS = ["scratch", "hole", "stain", "swapped_patch"]
SPLIT_COLUMN = 304
PROBE = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Root of all three categories; tests must not change it."""
    folder = tmp_path_factory.mktemp("demo")
    for category in CATEGORIES:
        DemoTextures(root=folder, category=category).prepare_data()
    return folder


@pytest.fixture
def brick(root, tmp_path) -> Path:
    """Root of a copy of the bricks, to change."""
    shutil.copytree(root / "brick", tmp_path / "copy" / "brick")
    return tmp_path / "copy"


def read_bytes(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@cache
def probe_places(category) -> dict[bytes, list[tuple[int, int]]]:
    """Where each run of 16 pixels of a row lies in the photograph."""
    places = defaultdict(list)
    for row, pixels in enumerate(getattr(data, category)()):
        line = pixels.tobytes()
        for column in range(len(line) - PROBE + 1):
            places[line[column : column + PROBE]].append((row, column))
    return places


def find_crop(category, image, clean) -> list[tuple[int, int]]:
    """Top left corners at which the photograph equals the image wherever ``clean`` is set."""
    runs = np.lib.stride_tricks.sliding_window_view(clean, PROBE, axis=1).all(axis=-1)
    row, column = np.argwhere(runs)[0]
    photograph = getattr(data, category)()
    corners = [
        (top - row, left - column)
        for top, left in probe_places(category)[image[row, column : column + PROBE].tobytes()]
        if 0 <= top - row <= 512 - 128 and 0 <= left - column <= 512 - 128
    ]
    return [
        (top, left)
        for top, left in corners
        if np.array_equal(photograph[top : top + 128, left : left + 128][clean], image[clean])
    ]


@pytest.mark.parametrize("category", CATEGORIES)
def test_layout_and_counts(root, category) -> None:
    counts = {"train/good": 100, "test/good": 30}
    counts |= {f"{part}/{defect}": 10 for part in ("test", "ground_truth") for defect in DEFECTS}
    expected = {
        f"{name}/{index:03d}{'_mask' if name.startswith('ground_truth') else ''}.png"
        for name, count in counts.items()
        for index in range(count)
    }
    assert set(read_bytes(root / category)) == expected
    assert {(image.shape, image.dtype) for image in map(io.imread, (root / category).rglob("*.png"))} == {
        ((128, 128), np.dtype(np.uint8))
    }


def test_every_run_writes_the_same_bytes(root, tmp_path) -> None:
    DemoTextures(root=tmp_path, category="brick", seed=7).prepare_data()
    assert read_bytes(tmp_path / "brick") == read_bytes(root / "brick")


@pytest.mark.parametrize("category", CATEGORIES)
def test_train_and_test_share_no_pixel(root, category) -> None:
    clean = np.ones((128, 128), bool)
    for path in sorted((root / category / "train/good").iterdir()):
        image = io.imread(path)
        corners = find_crop(category, image, clean) + find_crop(category, image[:, ::-1], clean)
        assert corners, path
        assert all(left + 128 <= SPLIT_COLUMN for _, left in corners), path
    for path in sorted((root / category / "test/good").iterdir()):
        corners = find_crop(category, io.imread(path), clean)
        assert corners, path
        assert all(left >= SPLIT_COLUMN for _, left in corners), path


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_masks_are_where_the_photograph_was_changed(root, category, defect) -> None:
    photograph = getattr(data, category)().astype(int)
    areas = []
    for path in sorted((root / category / "test" / defect).iterdir()):
        image = io.imread(path)
        mask = io.imread(root / category / "ground_truth" / defect / f"{path.stem}_mask.png")
        assert set(np.unique(mask)) == {0, 255}
        corners = find_crop(category, image, mask == 0)
        assert len(corners) == 1, path
        top, left = corners[0]
        assert left >= SPLIT_COLUMN
        change = np.abs(image - photograph[top : top + 128, left : left + 128])[mask == 255]
        assert (change > 0).mean() > 0.9, path
        assert change.mean() > 20, path
        areas.append(len(change))
    assert min(areas) >= 80
    assert max(areas) < 0.4 * 128 * 128
    assert max(areas) > 1.4 * min(areas)


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_image_occurs_twice(root, category) -> None:
    contents = list(read_bytes(root / category).values())
    assert len(set(contents)) == len(contents)


def test_complete_folder_is_left_untouched(brick) -> None:
    path = brick / "brick/test/hole/000.png"
    path.write_bytes(b"mine")
    before = {file: file.stat().st_mtime_ns for file in brick.rglob("*")}
    DemoTextures(root=brick).prepare_data()
    assert path.read_bytes() == b"mine"
    assert {file: file.stat().st_mtime_ns for file in brick.rglob("*")} == before


def test_incomplete_folder_is_refused_and_kept(brick) -> None:
    (brick / "brick/ground_truth/hole/003_mask.png").unlink()
    before = read_bytes(brick)
    with pytest.raises(FileNotFoundError, match=r"ground_truth/hole has 9 images, expected 10; delete") as error:
        DemoTextures(root=brick).setup()
    assert "\n" not in str(error.value)
    assert read_bytes(brick) == before


def test_left_over_of_an_interrupted_run_does_no_harm(root, tmp_path, monkeypatch) -> None:
    imsave, written = io.imsave, []

    def interrupted_imsave(path, image, **arguments) -> None:
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(path)
        imsave(path, image, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(io, "imsave", interrupted_imsave)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # As if the process were killed.
        with pytest.raises(KeyboardInterrupt):
            DemoTextures(root=tmp_path).prepare_data()
    (left_over,) = tmp_path.iterdir()
    assert left_over.name != "brick"
    DemoTextures(root=tmp_path).setup()
    assert read_bytes(tmp_path / "brick") == read_bytes(root / "brick")


def test_interrupted_run_cleans_up(tmp_path, monkeypatch) -> None:
    def interrupted_imsave(path, *_, **__) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "imsave", interrupted_imsave)
    with pytest.raises(KeyboardInterrupt):
        DemoTextures(root=tmp_path).prepare_data()
    assert not list(tmp_path.iterdir())


def test_concurrent_runs_leave_one_whole_folder(root, tmp_path) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(DemoTextures(root=tmp_path).prepare_data) for _ in range(3)]
    for run in runs:
        run.result()
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]
    assert read_bytes(tmp_path / "brick") == read_bytes(root / "brick")


def assert_cannot_write(root) -> None:
    with pytest.raises(OSError, match="Cannot write the demo data to") as error:
        DemoTextures(root=root).prepare_data()
    assert "\n" not in str(error.value)
    assert all(words in str(error.value) for words in [str(root), "writable", "another root"])


def test_root_that_cannot_be_a_folder_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert_cannot_write(tmp_path / "file")


def test_full_disk_is_named(tmp_path, monkeypatch) -> None:
    def full_disk(*_, **__) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io, "imsave", full_disk)
    assert_cannot_write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_root_is_named(tmp_path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert_cannot_write(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_unknown_category_is_named_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="brick, grass, gravel, got 'bottle'"):
        DemoTextures(root=tmp_path, category="bottle")
    assert not list(tmp_path.iterdir())


def test_default_root_is_in_the_working_directory() -> None:
    DemoTextures().prepare_data()
    assert Path("datasets/DemoTextures/brick/train/good/099.png").is_file()


def test_setup_alone_generates_and_yields_batches(tmp_path) -> None:
    datamodule = DemoTextures(root=tmp_path, category="grass")
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape == (8, 3, 128, 128)
    assert len(datamodule.train_data) == 100
    assert len(datamodule.val_data) == 70
    batches = list(datamodule.test_dataloader())
    images = torch.cat([batch.image for batch in batches])
    labels = torch.cat([batch.gt_label for batch in batches])
    masks = torch.cat([batch.gt_mask for batch in batches])
    assert images.shape == (70, 3, 128, 128)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.2 < 0.8 < images.max() <= 1
    assert masks.shape == (70, 128, 128)
    assert labels.sum() == 40
    assert torch.equal(masks.flatten(1).any(dim=1), labels.bool())


def test_validation_images_can_be_split_off(root) -> None:
    datamodule = DemoTextures(root=root, category="gravel", val_split_mode="from_test", val_split_ratio=0.5, seed=0)
    datamodule.setup()
    paths = [set(subset.samples.image_path) for subset in (datamodule.val_data, datamodule.test_data)]
    assert [len(subset) for subset in paths] == [35, 35]
    assert not paths[0] & paths[1]

# SPDX-License-Identifier: Apache-2.0

"""What restoration training has to undo, and which pixels it calls corrupted."""

import numpy as np
import pytest
import torch
from references import draw, with_detail
from scipy import ndimage

from anomalib_daad.models.daad_restoration import corruption
from anomalib_daad.models.daad_restoration.corruption import FOCUS, CorruptedImages, _centers, corrupt, relight


def test_masks_tell_what_changed() -> None:
    images = draw(64)
    corrupted, masks = corrupt(images)
    for before, after, mask in zip(images.numpy(), corrupted.numpy(), masks.numpy(), strict=True):
        change = np.abs(after - before).mean(axis=0)
        visible = max(0.015, 0.08 * before.mean(axis=0).std(ddof=1))
        sure = np.abs(change - visible) > 1e-5
        np.testing.assert_array_equal((change > visible)[sure], mask[0][sure] == 1)
    assert corrupted.abs().max() <= 1
    whole = masks.flatten(1).mean(dim=1)
    assert (whole == 0).any()  # some stay good, which the scores are calibrated on
    assert 0.5 < (whole > 0).float().mean() < 1
    assert whole.max() < 0.95


def test_nothing_is_corrupted_where_nothing_shall_be() -> None:
    images = draw()
    corrupted = corrupt(images, share=0.0)
    assert torch.equal(corrupted.images, images)
    assert not corrupted.masks.any()


def test_the_seed_alone_decides() -> None:
    images = draw()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(corrupt(images).images)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.randn], ids=["grey", "white", "noise"])
def test_any_batch_can_be_corrupted(count, make) -> None:
    images = make(count, 3, 16, 24).clamp(-1, 1)
    for _ in range(5):
        corrupted: CorruptedImages = corrupt(images, share=1.0)
        assert corrupted.images.isfinite().all()
        assert corrupted.images.abs().max() <= 1 + 1e-6
        assert set(corrupted.masks.unique().tolist()) <= {0.0, 1.0}


def test_windows_lie_where_there_is_detail() -> None:
    images = torch.zeros(400, 3, 64, 64)
    images[:, :, 8:24, 40:56] = torch.randn(400, 3, 16, 16).clamp(-1, 1)  # a sixteenth of the image
    rows, columns = (x.flatten() * 64 for x in _centers(images))
    inside = (rows >= 4) & (rows < 28) & (columns >= 36) & (columns < 60)  # slopes reach into the next cells
    assert inside.float().mean() == pytest.approx(FOCUS + (1 - FOCUS) / 16, abs=0.06)
    rows, columns = (x.flatten() for x in _centers(torch.zeros(2000, 3, 64, 64)))  # anywhere where there is none
    for position in (rows, columns):
        counts = torch.histc(position, 4, 0, 1)
        assert counts.sum() == 2000
        assert counts.min() > 400


def test_specks_are_small_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw(64, (128, 128))
    largest, share = {}, {}
    for speckled in (0.0, 1.0):
        monkeypatch.setattr(corruption, "SPECKLED", speckled)
        masks = [mask[0].numpy() for mask in corruption._regions(images)]
        areas = [np.bincount(ndimage.label(mask)[0].ravel())[1:] for mask in masks]
        largest[speckled] = np.mean([area.max(initial=0) for area in areas]) / 128**2
        share[speckled] = np.array([mask.mean() for mask in masks])
    assert largest[1.0] < 0.015 < 0.03 < largest[0.0]
    assert share[1.0].min() > 0.0045
    assert share[1.0].max() < 0.1005
    assert np.std(share[1.0]) == pytest.approx(0.095 / 12**0.5, rel=0.25)  # drawn evenly, image by image


def test_a_grey_product_stays_grey() -> None:
    images = draw(16).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    for changed in (relight(images, 0.7, 1.5), corrupt(images, share=1.0).images):
        torch.testing.assert_close(changed, changed.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))


def test_light_changes_in_proportion_to_the_contrast() -> None:
    images = draw(256) * 0.1
    faint = images * 0.1
    moved = (relight(images, 0.0, 0.2) - images).abs().mean()
    assert (relight(faint, 0.0, 0.2) - faint).abs().mean() == pytest.approx(moved.item() * 0.1, rel=0.3)
    torch.testing.assert_close(relight(images, 0.0, 0.0), images)


def test_corruptions_fill_detail_where_they_fill_colours() -> None:
    torch.manual_seed(0)
    for _ in range(5):
        images = with_detail(8)
        corrupted = corrupt(images, share=1.0).images
        changed = (corrupted - images).abs() > 1e-4
        filled = changed[:, :3].any(dim=1)
        assert (changed[:, 3] & ~filled).sum() <= 0.01 * filled.sum()
        assert changed[:, 3].sum() > 0.9 * filled.sum()


@pytest.mark.parametrize("contrast", [1.0, 0.02])
def test_corruptions_of_colours_and_what_counts_as_one_do_not_depend_on_detail(contrast) -> None:
    images = with_detail()
    images[:, :3] *= contrast  # in flat colours nothing but detail changes visibly
    runs = []
    for given in (images, images[:, :3]):
        torch.manual_seed(0)
        runs.append(corrupt(given))
    assert torch.equal(runs[0].images[:, :3], runs[1].images)
    assert torch.equal(runs[0].masks, runs[1].masks)


def test_light_changes_detail_as_it_changes_contrast() -> None:
    torch.manual_seed(0)
    images = with_detail()
    images[:, :3] *= 0.2  # none of them is clamped
    lit = relight(images, 0.5, 0.2)
    gains = [x[:, :3].mean(dim=1).std(dim=(1, 2)) for x in (lit, images)]
    factor = (gains[0] / gains[1]).view(-1, 1, 1)
    assert (factor - 1).abs().min() > 0.01
    torch.testing.assert_close(lit[:, 3], images[:, 3] * factor)

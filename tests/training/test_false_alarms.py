# SPDX-License-Identifier: Apache-2.0

"""Thresholds from good images alone keep what they promise."""

import logging
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from conftest import make_model

from anomalib_daad import Daad, FalseAlarmPostProcessor, load_safetensors, save_safetensors
from anomalib_daad.training.conformal_threshold import MOST_SCORES, grid

TRAINER = SimpleNamespace(is_global_zero=True, validating=True)


def validate(post_processor, scores, labels, maps=None) -> None:
    """Let a post-processor see a validation in batches of three."""
    maps = torch.zeros(len(scores), 8, 8) if maps is None else maps
    masks = torch.zeros(maps.shape, dtype=torch.bool)
    for start in range(0, len(scores), 3):
        part = slice(start, start + 3)
        batch = ImageBatch(
            image=torch.zeros(len(scores[part]), 3, 8, 8),
            gt_label=labels[part],
            gt_mask=masks[part],
            pred_score=scores[part],
            anomaly_map=maps[part],
        )
        post_processor.on_validation_batch_end(TRAINER, None, batch)
    post_processor.on_validation_epoch_end(TRAINER, None)
    post_processor.on_validation_end(TRAINER, None)


@pytest.mark.parametrize(("count", "rate"), [(99, 0.01), (20, 0.01), (19, 0.05), (47, 0.1), (200, 0.1), (1, 0.5)])
def test_further_good_images_are_rejected_as_often_as_promised(count, rate) -> None:
    rng = np.random.default_rng(count)
    rejected, promised, draws, post_processor = 0, set(), 2000, FalseAlarmPostProcessor(rate)
    for sample in rng.lognormal(size=(draws, count + 1)).astype(np.float32):
        post_processor.learn(torch.from_numpy(sample[:-1]))
        rejected += bool(sample[-1] > post_processor.image_threshold)
        promised.add(post_processor.promised_rate)
    (share,) = promised
    assert share <= max(rate, 1 / (count + 1)) + 1e-12
    assert rejected / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)


def test_the_rank_is_that_of_exact_fractions() -> None:
    for rate in (Fraction(1, 100), Fraction(1, 20), Fraction(1, 10), Fraction(1, 3)):
        post_processor = FalseAlarmPostProcessor(float(rate))
        for count in range(1, 300):
            post_processor.learn(torch.arange(1.0, count + 1))
            exact = [k for k in range(1, count + 1) if Fraction(count + 1 - k, count + 1) <= rate]
            assert int(post_processor.image_threshold) == min(exact, default=count)


def test_p_values_of_good_images_are_uniform_or_larger() -> None:
    rng = np.random.default_rng(0)
    values, post_processor = [], FalseAlarmPostProcessor()
    for sample in rng.normal(size=(2000, 30)).astype(np.float32):
        post_processor.learn(torch.from_numpy(sample[:-1]))
        values.append(post_processor.p_value(torch.from_numpy(sample[-1:])))
    values = torch.cat(values)
    for level in (0.05, 0.1, 0.3, 0.7):
        assert (values <= level).float().mean() <= level + 4 * (level * (1 - level) / 2000) ** 0.5
    assert values.min() >= 1 / 30


def test_p_values_fall_as_scores_rise_also_of_more_good_images_than_are_kept() -> None:
    post_processor = FalseAlarmPostProcessor()
    good = torch.from_numpy(np.random.default_rng(1).gamma(2, size=5000).astype(np.float32))
    post_processor.learn(good)
    scores = torch.linspace(-1, 30, 200)
    values = post_processor.p_value(scores)
    assert (values.diff() <= 0).all()
    exact = (good >= scores[:, None]).float().mean(dim=1)
    torch.testing.assert_close(values, exact, atol=2 / MOST_SCORES, rtol=0)
    assert post_processor.good_images == 5000


def test_the_pixels_of_good_images_are_marked_as_often_as_told() -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 1000)).astype(np.float32))
    for rate in (0.001, 0.01, 0.2):
        post_processor = FalseAlarmPostProcessor(pixel_false_alarm_rate=rate)
        post_processor.learn(torch.ones(50), pixels)
        share = (pixels > post_processor.pixel_threshold).float().mean()
        assert rate - 1 / pixels.numel() <= share + 1e-9 <= rate + 2e-9


def test_thresholds_come_of_the_good_images_alone() -> None:
    post_processor = FalseAlarmPostProcessor(0.25, 0.5)
    scores = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, torch.inf, 7.0])
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1])
    maps = scores.nan_to_num(posinf=0.0)[:, None, None].expand(-1, 8, 8).clone()
    validate(post_processor, scores, labels, maps)
    assert 3.0 < post_processor.image_threshold < 3.01
    assert post_processor.pixel_threshold == 1.0  # of 0, 1, 2, 3 the smallest that no more than half exceed
    assert post_processor.good_images == 3
    assert post_processor.promised_rate == 0.25


def test_without_good_images_there_is_no_threshold(caplog) -> None:
    post_processor = FalseAlarmPostProcessor()
    with caplog.at_level(logging.WARNING):
        validate(post_processor, torch.tensor([4.0, 5.0]), torch.tensor([1, 1]))
    assert "no good image that can be judged, and so gives no threshold" in caplog.text
    assert post_processor.image_threshold.isnan()
    assert post_processor.good_images == 0
    assert np.isnan(post_processor.promised_rate)
    assert post_processor.p_value(torch.tensor([1.0])).isnan().all()


def test_defects_do_not_all_end_at_1_where_none_was_seen() -> None:
    post_processor = FalseAlarmPostProcessor(0.1)
    validate(post_processor, torch.linspace(1, 2, 40), torch.zeros(40, dtype=torch.long))
    normalized = post_processor.normalize_batch
    batch = ImageBatch(image=torch.zeros(3, 3, 8, 8), pred_score=torch.tensor([1.5, 2.5, 3.5]))
    normalized(batch)
    good, odd, odder = batch.pred_score
    assert 0 < good < 0.5 < odd < odder < 1


def test_a_training_says_what_its_good_images_can_promise(caplog) -> None:
    post_processor = FalseAlarmPostProcessor(0.02)
    with caplog.at_level(logging.INFO):
        validate(post_processor, torch.rand(19), torch.zeros(19, dtype=torch.long))
        assert "from 19 good images that were held out" in caplog.text
        assert "at most 0.05 of good images are rejected, not 0.02, which takes 49." in caplog.text
        caplog.clear()
        validate(post_processor, torch.rand(49), torch.zeros(49, dtype=torch.long))
        assert "at most 0.02 of good images are rejected." in caplog.text
    assert all(record.levelno < logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2])
@pytest.mark.parametrize("name", ["false_alarm_rate", "pixel_false_alarm_rate"])
def test_rates_that_are_none_are_refused(name, rate) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, such as 0.01"):
        FalseAlarmPostProcessor(**{name: rate})


def test_no_finite_score_is_no_threshold() -> None:
    with pytest.raises(ValueError, match="There is no good image to take a threshold from"):
        FalseAlarmPostProcessor().learn(torch.tensor([torch.nan, torch.inf]))


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (256, 100), (1000, 1001)])
def test_kept_pixels_are_few_and_spread_over_the_map(size) -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    kept = grid(torch.stack([rows, columns]))
    assert kept.shape[0] == 2
    assert kept.shape[1] <= 127**2
    torch.testing.assert_close(kept.mean(dim=1), torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_a_training_calibrates_and_every_file_keeps_it(make_engine, make_datamodule, tmp_path, caplog) -> None:
    model, datamodule = make_model(post_processor=FalseAlarmPostProcessor(0.4)), make_datamodule()
    with caplog.at_level(logging.WARNING):
        make_engine(max_epochs=2).fit(model, datamodule=datamodule)
    good = torch.stack([item.image for item in datamodule.val_data if not item.gt_label])
    model.eval()
    with torch.no_grad():
        scores = model.model(model.pre_processor(good)).pred_score
    kept = model.post_processor.good_scores
    torch.testing.assert_close(kept[: len(good)], scores.sort().values, atol=1e-6, rtol=1e-5)
    assert kept[len(good) :].isnan().all()
    assert float((scores > model.post_processor.image_threshold + 1e-6).float().mean()) <= 0.4
    saved = save_safetensors(model, tmp_path / "model.safetensors")
    again = load_safetensors(saved)
    assert again.post_processor.false_alarm_rate == 0.4
    torch.testing.assert_close(again.post_processor.good_scores, kept, equal_nan=True)


def test_a_model_of_anomalibs_thresholds_keeps_them(tmp_path, make_engine, make_datamodule) -> None:
    model = make_model(post_processor=PostProcessor())
    engine = make_engine(max_epochs=1)
    engine.fit(model, datamodule=make_datamodule())
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = Daad.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.post_processor.image_threshold == model.post_processor.image_threshold
    assert again.post_processor.good_images == 0

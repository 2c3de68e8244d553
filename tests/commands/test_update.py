# SPDX-License-Identifier: Apache-2.0

"""A new kind of good images is added to a trained DaadRestoration."""

import logging
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import draw, make_model, make_restoration, train
from PIL import Image

from anomalib_daad import save_safetensors
from anomalib_daad.commands.command_line import CommandParser, main, plain_options
from anomalib_daad.commands.shared.trained_model import load_model, load_trained
from anomalib_daad.commands.update import update_model, updated_model
from anomalib_daad.commands.update.update_model import update
from anomalib_daad.components.fused_score import Scores
from anomalib_daad.models.daad_restoration import further_training
from anomalib_daad.models.daad_restoration.lightning_model import DaadRestoration
from anomalib_daad.training.conformal_threshold import threshold

STEPS = 6


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch) -> None:
    for module in (further_training, updated_model):
        monkeypatch.setattr(module, "STEPS", STEPS)


def slant(folder: Path, count: int, seed: int = 1) -> Path:
    """Good parts in light from one side."""
    for path in sorted(draw(folder, count, seed=seed).iterdir()):
        pixels = np.asarray(Image.open(path), np.float64)
        pixels *= np.linspace(0.3, 1.7, pixels.shape[1])[None, :, None]
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """Eight good parts in light from one side."""
    return slant(tmp_path_factory.mktemp("parts") / "new", 8)


def judged(checkpoint: Path, folder: Path) -> np.ndarray:
    """Scores of a folder's images, in the order of their names, as the network gives them."""
    model = load_trained(checkpoint)
    scores = []
    for path in sorted(folder.iterdir()):
        pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).permute(2, 0, 1)
        with torch.no_grad():
            scores.append(float(model.model(model.pre_processor(pixels[None])).pred_score))
    return np.array(scores)


def lowered(checkpoint: Path, target: Path, limit: float) -> Path:
    """A copy whose threshold is another."""
    model = load_model(checkpoint)
    model.post_processor._image_threshold.fill_(limit)
    return save_safetensors(model, target)


# What becomes of the model.


def test_new_images_are_less_odd_afterwards_and_the_old_file_is_kept(restoration, new, tmp_path) -> None:
    before = restoration.read_bytes()
    shutil.copy(restoration, tmp_path / "model.ckpt")
    update(tmp_path / "model.ckpt", new)
    target = tmp_path / "model_updated.ckpt"
    assert (tmp_path / "model.ckpt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "model_updated.ckpt"]
    others = slant(tmp_path / "others", 6, seed=5)  # that the update did not see
    assert judged(target, others).mean() < judged(restoration, others).mean()
    old, updated = load_model(restoration), load_model(target)
    assert not torch.equal(*(next(it.model.autoencoder.parameters()) for it in (old, updated)))
    torch.testing.assert_close(old.model.registration.state_dict(), updated.model.registration.state_dict())


def test_the_threshold_is_of_images_that_were_not_trained_on(restoration, new, tmp_path, monkeypatch) -> None:
    seen = []
    losses = DaadRestoration.losses

    def spy(self, images):
        seen.extend(images.clone())
        return losses(self, images)

    monkeypatch.setattr(DaadRestoration, "losses", spy)
    lenient = lowered(restoration, tmp_path / "low.safetensors", -100.0)
    update(lenient, new, false_alarm_rate=0.3, output=tmp_path / "new.safetensors")
    model = load_trained(tmp_path / "new.safetensors")
    pixels = [np.asarray(Image.open(path), np.float32) / 255 for path in sorted(new.iterdir())]
    images = [model.pre_processor(torch.from_numpy(it).permute(2, 0, 1)[None])[0] for it in pixels]
    is_learnt = [any(torch.equal(image, other) for other in seen) for image in images]
    assert is_learnt == [True, False] * 4
    assert len(seen) == STEPS * 4  # none twice in a batch
    scores = judged(tmp_path / "new.safetensors", new)[1::2]
    post_processor = model.post_processor
    assert int(post_processor.good_images) == 4
    assert float(post_processor.image_threshold) == pytest.approx(float(threshold(np.sort(scores), 0.3)), rel=1e-4)


def test_a_threshold_is_never_lowered(restoration, new, tmp_path) -> None:
    strict = lowered(restoration, tmp_path / "high.safetensors", 1e4)
    update(strict, new, output=tmp_path / "new.safetensors")
    old, updated = (load_trained(path).post_processor for path in (strict, tmp_path / "new.safetensors"))
    assert float(updated.image_threshold) == 1e4
    assert updated.pixel_threshold >= old.pixel_threshold
    assert updated.image_max > updated.image_threshold > updated.image_min


def test_maps_are_standardised_by_both_kinds(restoration, new, tmp_path) -> None:
    update(restoration, new, output=tmp_path / "new.ckpt")
    old, updated = (load_model(path).model for path in (restoration, tmp_path / "new.ckpt"))
    pixels = [np.asarray(Image.open(path), np.float32) / 255 for path in sorted(new.iterdir())[::2]]
    prepare = load_model(restoration).pre_processor
    with torch.no_grad():
        maps = torch.cat([updated.observe(prepare(torch.from_numpy(it).permute(2, 0, 1)[None])) for it in pixels])
    both = [(old.standardization.running_mean, old.standardization.running_var), (maps.mean(0), maps.var(0))]
    mean = sum(it for it, _ in both) / 2
    variance = sum(spread + it**2 for it, spread in both) / 2 - mean**2
    torch.testing.assert_close(updated.standardization.running_mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(updated.standardization.running_var, variance, rtol=1e-3, atol=1e-4)


def test_old_images_keep_their_scores(restoration, tmp_path) -> None:
    new, old = slant(tmp_path / "new", 20), draw(tmp_path / "old", 20, seed=7)
    update(restoration, new, old, output=tmp_path / "new.ckpt")
    before, after = (judged(path, old)[1::2] for path in (restoration, tmp_path / "new.ckpt"))
    model = load_model(tmp_path / "new.ckpt")
    model.model.score.load_state_dict(load_model(restoration).model.score.state_dict())
    by_old_ranges = judged(save_safetensors(model, tmp_path / "kept.safetensors"), old)[1::2]
    assert abs(after.mean() - before.mean()) < abs(by_old_ranges.mean() - before.mean()) / 4


@pytest.mark.parametrize(("factor", "believed"), [(0.8, 0.8), (1.5, 1.5), (0.1, 0.5)])
def test_ranges_follow_the_scores_of_the_same_images(factor, believed) -> None:
    network = make_restoration().model
    parts = Scores(torch.rand(30) * 5, torch.randn(30))
    network.score.calibrate(*parts)
    before = network.score(*parts)
    now = Scores(parts.reconstruction * factor - 2, parts.alignment * factor + 1)
    further_training.carry_ranges(network, parts, now)
    after = network.score(*now)
    torch.testing.assert_close(after.mean(), before.mean())
    torch.testing.assert_close(after.std(), before.std() * factor / believed)


def test_maps_that_look_like_old_ones_have_their_statistics() -> None:
    network = make_restoration().model.eval()
    maps, others = torch.rand(12, 5, 32, 32) * 3 + 1, torch.rand(40, 5, 32, 32)
    network.standardization.learn_anew(others)
    known = network.standardization.statistics
    found = further_training.as_if_old(network, maps, known)
    torch.testing.assert_close(network.standardization.statistics, known)
    usual = network.standardization.usual()
    standardized = (found - usual.mean) / usual.deviation
    network.standardization.learn_anew(maps)
    torch.testing.assert_close(standardized, network.standardization(maps), rtol=1e-4, atol=1e-4)


def test_old_images_fill_half_of_each_batch(restoration, new, tmp_path, monkeypatch) -> None:
    batches = []
    losses = DaadRestoration.losses

    def spy(self, images):
        batches.append(images.mean(dim=(1, 2)))  # each column's colour
        return losses(self, images)

    monkeypatch.setattr(DaadRestoration, "losses", spy)
    update(restoration, new, old=draw(tmp_path / "old", 8, seed=7), output=tmp_path / "new.ckpt")
    assert len(batches) == STEPS
    for columns in batches:
        is_slanted = columns[:, -10:].mean(dim=1) > columns[:, :10].mean(dim=1) + 0.1
        assert is_slanted.tolist() == [True] * 4 + [False] * 4


def test_it_is_repeatable_and_leaves_the_random_state(restoration, new, tmp_path) -> None:
    state = torch.get_rng_state()
    for name in ("first", "second"):
        update(restoration, new, output=tmp_path / f"{name}.ckpt")
        torch.rand(5)
    update(restoration, new, seed=1, output=tmp_path / "other.ckpt")
    torch.set_rng_state(state)
    first, second, other = (judged(tmp_path / f"{name}.ckpt", new) for name in ("first", "second", "other"))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


# What is said, and what is refused.


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", "update", *map(str, arguments)])
    main()


def test_it_says_what_changed(restoration, new, tmp_path, monkeypatch, capsys, caplog) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(new, folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    shutil.copy(folder / "001.png", folder / "zebra.png")  # the ninth: it is trained on
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "zoo.png")
    limit = float(judged(restoration, new).min())
    start = lowered(restoration, tmp_path / "model.safetensors", limit)
    readable = Path(shutil.copytree(folder, tmp_path / "readable", ignore=shutil.ignore_patterns("broken.png")))
    rejected = (judged(start, readable) > np.float32(limit)).sum()
    with caplog.at_level(logging.WARNING):
        call(monkeypatch, start, "--good", folder, "--old", draw(tmp_path / "old", 4, seed=7))
    said = " ".join(capsys.readouterr().out.split())
    updated = load_trained(tmp_path / "model_updated.safetensors").post_processor
    assert "New good images: 10, of which 5 decide on the threshold, others are learnt" in said
    assert re.search(rf"Threshold before: \S+, which rejects {rejected} of 10", said)
    assert f"Threshold now: {float(updated.image_threshold):.4g}, which rejects " in said
    assert "of further ones at most 16.7% on average" in said
    assert re.search(r"Old good images beside those learnt: 2, \d rejected before, \d now", said)
    odd = re.search(r"Still odd, above the threshold before: (.*?); a defect", said)
    assert odd is not None
    assert odd[1].split(", ")[0] == "zoo.png"
    assert len(odd[1].split(", ")) <= 5
    assert "at most 16.7% of good images of the new kind are rejected, not 1%, which takes 99" in caplog.text
    assert "broken.png is left out: " in caplog.text


def test_an_interrupt_leaves_no_file(restoration, new, tmp_path, monkeypatch, capsys) -> None:
    shutil.copy(restoration, tmp_path / "model.ckpt")
    losses, save = DaadRestoration.losses, updated_model.UpdatedModel.save
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return losses(*arguments)

    def half_written(self, path):
        path.write_bytes(b"half")
        save(self, path.with_name("other.ckpt"))
        raise KeyboardInterrupt

    for owner, name, broken in (
        (DaadRestoration, "losses", interrupted),
        (updated_model.UpdatedModel, "save", half_written),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(SystemExit) as exit_:
                call(patch, tmp_path / "model.ckpt", "--good", new)
        assert exit_.value.code == 130
        assert capsys.readouterr().err.strip().endswith("interrupted; the same command starts anew")
        assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.fixture(scope="module")
def others(data_root, tmp_path_factory) -> SimpleNamespace:
    """Checkpoints that cannot be updated: one of another detector, one of an untrained model."""
    folder = tmp_path_factory.mktemp("others")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(make_model(), data_root, folder)
    untrained = save_safetensors(make_restoration(), folder / "untrained.safetensors")
    return SimpleNamespace(daad=folder / "model.ckpt", untrained=untrained)


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("gone.ckpt", "--good new", "There is no model gone.ckpt"),
        ("text.ckpt", "--good new", "text.ckpt is damaged, or is not a Lightning checkpoint"),
        ("model.onnx", "--good new", "model.onnx is an export, which learns no more: update its checkpoint"),
        ("model.pt", "--good new", "model.pt is an export, which learns no more"),
        ("daad", "--good new --output o.ckpt", "it holds a Daad, and only a DaadRestoration is trained further"),
        ("untrained", "--good new --output o.safetensors", "This DaadRestoration was never trained"),
        ("restoration", "--good gone", "There is no image or folder gone"),
        ("restoration", "--good three --output o.ckpt", "three has 3 image(s) that can be read: give 4 at least"),
        ("restoration", "--good new --old three --output o.ckpt", "three has 3 image(s) that can be read"),
        ("restoration", "--good new --old new --output o.ckpt", "000.png is given as new and as old"),
        ("restoration", "--good new --output text.ckpt", "text.ckpt is there already"),
        ("restoration", "--good new --output o.onnx", "o.onnx has another ending than"),
        ("restoration", "--good new --false-alarm-rate 1", "false_alarm_rate must be between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(restoration, others, new, tmp_path, monkeypatch, capsys, model, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("text.ckpt", "model.pt", "model.onnx"):
        (tmp_path / name).write_text("nothing")
    draw(tmp_path / "three", 3)
    shutil.copytree(new, tmp_path / "new")
    models = {"restoration": restoration, **vars(others)}
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, models.get(model, model), *arguments.split())
    assert exit_.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("anomalib-daad: error:")
    assert said in " ".join(line.split())
    assert not list(tmp_path.glob("o.*"))


def test_help_tells_of_every_argument(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "--help")
    said = capsys.readouterr().out
    assert exit_.value.code == 0
    for word in ("CHECKPOINT", "--good", "--old", "--false_alarm_rate", "--seed", "--output", "--overwrite"):
        assert word in said
    assert update_model.update.__doc__.splitlines()[0].split(":")[0] in " ".join(said.split())


@pytest.mark.parametrize(("given", "is_on"), [([], True), (["true"], True), (["false"], False)])
def test_a_switch_needs_no_value(given, is_on) -> None:
    parser = CommandParser()
    parser.add_function_arguments(update)
    for words in (
        ["--overwrite", *given, "--good", "new", "a.ckpt"],
        ["a.ckpt", "--good", "new", "--overwrite", *given],
    ):
        parsed = parser.parse_args(plain_options(words, update))
        assert parsed.overwrite is is_on
        assert parsed.checkpoint == Path("a.ckpt")

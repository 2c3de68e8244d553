# SPDX-License-Identifier: Apache-2.0

"""What lies in an ignored region changes nothing, whatever file the model lies in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.models import Padim
from conftest import make_model, make_restoration
from PIL import Image

from anomalib_daad import Daad, DaadRestoration, load_safetensors, save_safetensors
from anomalib_daad.training import IgnoreMask

ROWS, COLUMNS = slice(30, 44), slice(4, 15)  # of 48x40 pixels


def draw_mask(path: Path, size: tuple[int, int] = (48, 40)) -> Path:
    pixels = np.zeros(size, np.uint8)
    pixels[ROWS, COLUMNS] = 255
    Image.fromarray(pixels).save(path)
    return path


def make_tiled(**arguments) -> DaadRestoration:
    return make_restoration(image_size=(96, 64), tile_size=64, **arguments)


@pytest.fixture(scope="module", params=[make_model, make_restoration, make_tiled], ids=lambda it: it.__name__)
def make(request):
    return request.param


@pytest.fixture
def trained(make, make_engine, make_datamodule, tmp_path):
    model, engine = make(), make_engine(max_epochs=2, callbacks=[IgnoreMask(draw_mask(tmp_path / "mask.png"))])
    engine.fit(model, datamodule=make_datamodule())
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    return model.eval()


def images_and_drawn_into() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, the same with something else in the region, and the same with something else beside it."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(3, 3, 48, 40, generator=generator)
    inside, outside = images.clone(), images.clone()
    inside[0, :, ROWS, COLUMNS] = 1
    inside[1, :, ROWS, COLUMNS] = 1 - inside[1, :, ROWS, COLUMNS]
    inside[2, 0, ROWS, COLUMNS] = 0
    outside[:, :, 5:25, 20:35] = 1
    return images, inside, outside


def assert_ignored(judge) -> None:
    """``judge`` gives scores and maps of images."""
    images, inside, outside = images_and_drawn_into()
    (score, anomaly_map), (other, other_map) = judge(images), judge(inside)
    np.testing.assert_allclose(other, score, atol=1e-6)
    np.testing.assert_allclose(other_map, anomaly_map, atol=1e-6)
    assert np.abs(judge(outside)[1] - anomaly_map).max() > 1e-3


def by(model):
    @torch.no_grad()
    def judge(images):
        output = model(images)
        return output.pred_score.numpy(), output.anomaly_map.numpy()

    return judge


def test_nothing_in_the_region_counts_in_any_file(trained, tmp_path) -> None:
    assert_ignored(by(trained))
    images, inside, _ = images_and_drawn_into()
    for learns in (trained.model.scores, trained.model.observe):  # also what ranges and statistics are learnt from
        expected, found = (learns(trained.pre_processor(it)) for it in (images, inside))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    kind = DaadRestoration if isinstance(trained, DaadRestoration) else Daad
    assert_ignored(by(kind.load_from_checkpoint(tmp_path / "model.ckpt")))
    assert_ignored(by(load_safetensors(save_safetensors(trained, tmp_path / "model.safetensors"))))
    exported = torch.load(trained.to_torch(tmp_path), weights_only=False)["model"]
    assert_ignored(by(exported))


def test_nothing_in_the_region_counts_in_a_graph(make_engine, make_datamodule, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_model(connections="none", adversarial=False)
    mask = IgnoreMask(draw_mask(tmp_path / "mask.png"))
    make_engine(max_epochs=1, callbacks=[mask]).fit(model, datamodule=make_datamodule())
    session = onnxruntime.InferenceSession(str(model.to_onnx(tmp_path)))
    names = ["pred_score", "anomaly_map"]
    assert_ignored(lambda images: session.run(names, {session.get_inputs()[0].name: images.numpy()}))


def test_nothing_in_the_region_is_trained_on(make, make_engine, data_root, tmp_path) -> None:
    """Two trainings whose images differ in the region alone end alike."""
    states = []
    for value in (0, 255):
        root = tmp_path / str(value)
        shutil.copytree(data_root, root)
        for path in (root / "part").glob("t*/*/*.png"):
            pixels = np.array(Image.open(path))
            pixels[ROWS, COLUMNS] = value
            Image.fromarray(pixels).save(path)
        model, mask = make(), IgnoreMask(draw_mask(tmp_path / "mask.png"))
        datamodule = MVTecAD(root, "part", train_batch_size=4, num_workers=0)
        make_engine(max_epochs=1, callbacks=[mask]).fit(model, datamodule=datamodule)
        states.append(model.state_dict())
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=0, atol=1e-6, equal_nan=True, msg=key)


def test_a_model_without_a_region_has_none(make) -> None:
    model = make()
    assert "model.ignored" not in model.state_dict()
    with_region = make()
    with_region.model.ignored = torch.zeros(1, 1, *with_region.model.image_size, dtype=torch.bool)
    with_region.make_room(model.state_dict())
    with_region.load_state_dict(model.state_dict())
    assert with_region.model.ignored is None


def test_masks_that_do_not_fit_are_refused(make_engine, make_datamodule, tmp_path) -> None:
    small = IgnoreMask(draw_mask(tmp_path / "small.png", (45, 40)))
    with pytest.raises(ValueError, match=r"small.png has 40x45 pixels, the images have 40x48: draw it on one of the"):
        make_engine(max_steps=1, callbacks=[small]).fit(make_model(), datamodule=make_datamodule())
    fitting = IgnoreMask(draw_mask(tmp_path / "fitting.png"))
    with pytest.raises(ValueError, match="Padim cannot ignore a region"):
        fitting.setup(make_engine(), Padim(pre_trained=False), "fit")
    for value, word in ((0, "nowhere"), (255, "all")):
        Image.fromarray(np.full((48, 40), value, np.uint8)).save(tmp_path / "plain.png")
        with pytest.raises(ValueError, match=f"plain.png is {word} white"):
            IgnoreMask(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text.png cannot be read .*: give a PNG of which white is ignored"):
        IgnoreMask(tmp_path / "text.png")

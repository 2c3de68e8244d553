# SPDX-License-Identifier: Apache-2.0

"""Pictures of tests and predictions."""

import numpy as np
import pytest
from anomalib.visualization import ImageVisualizer
from conftest import as_if_trained, make_model, make_restoration
from PIL import Image

from anomalib_daad import Mnad
from anomalib_daad.training.judgement_pictures import JudgementVisualizer, highlight


def test_colour_lies_on_what_is_odd_alone() -> None:
    image = np.random.default_rng(0).random((40, 60, 3)).astype(np.float32)
    heat = np.full((20, 30), 0.2, np.float32)
    np.testing.assert_allclose(highlight(image, heat), 255 * image, atol=1)
    heat[8:12, 20:26] = 0.9
    drawn = highlight(image, heat)
    changed = np.abs(drawn - 255 * image).max(axis=2) > 1
    assert changed[16:24, 40:52].mean() > 0.95
    changed[12:28, 36:56] = False
    assert not changed.any()
    inside, outline = drawn[18:22, 44:48].reshape(-1, 3).mean(axis=0), drawn[15:25, 38:54].reshape(-1, 3)
    assert inside[0] > inside[2]  # red
    assert (outline == (200, 0, 0)).all(axis=1).any()


@pytest.mark.parametrize(
    "make", [make_model, make_restoration, lambda: Mnad(image_size=(32, 32), base_channels=4, num_items=10)]
)
def test_each_image_has_a_picture_with_what_was_expected(make, make_datamodule, make_engine, tmp_path) -> None:
    model, datamodule, engine = make(), make_datamodule(), make_engine(max_epochs=1)
    assert isinstance(model.visualizer, JudgementVisualizer)
    engine.fit(model, datamodule=datamodule)
    engine.test(model, datamodule=datamodule)
    files = {f"{path.parent.name}/{path.name}": path for path in (tmp_path / "results").rglob("images/**/*.png")}
    assert len(files) == len(datamodule.test_data)
    widths = {name: Image.open(path).width for name, path in files.items()}
    pane = round(256 * 40 / 48) + 8
    assert {width // pane for name, width in widths.items() if name.startswith("good")} == {3}  # image, expected, odd
    assert {width // pane for name, width in widths.items() if name.startswith("bar")} == {4}  # and the true defect
    shown = np.asarray(Image.open(files["good/000.png"]))
    item = next(item for item in datamodule.test_data if item.image_path.endswith("good/000.png"))
    expected = np.asarray(Image.open(item.image_path).resize((pane - 8, 256), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(shown[30:286, 8:pane].astype(int), expected, atol=2)


def test_images_without_files_are_drawn_too(make_datamodule, tmp_path) -> None:
    model, datamodule = as_if_trained(make_model()), make_datamodule()
    datamodule.setup()
    batch = next(iter(datamodule.test_dataloader()))
    batch.image_path, batch.image = None, model.pre_processor(batch.image)
    batch.update(**model.eval().model(batch.image)._asdict())
    visualizer = JudgementVisualizer(output_dir=tmp_path / "pictures")
    drawn = [visualizer._draw(item, np.zeros((32, 32, 3), np.float32)) for item in batch]
    shown = np.asarray(drawn[0])[30:286, 8:264].mean(axis=(0, 1))
    np.testing.assert_allclose(shown, 127.5 * (batch.image[0].mean(dim=(1, 2)) + 1), atol=2)


def test_the_users_own_visualizer_stays() -> None:
    own = ImageVisualizer()
    assert make_model(visualizer=own).visualizer is own

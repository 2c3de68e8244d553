# SPDX-License-Identifier: Apache-2.0

"""Files that an inferencer is given, read right where its own reader sees white."""

import numpy as np
import pytest
import tifffile
from anomalib.data.utils import read_image as read_in_anomalib
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image

from anomalib_daad import Daad, read_image
from anomalib_daad.data.image_check import reading_fault

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 2**16, (48, 40), dtype=np.uint16)
RGB = RNG.integers(0, 2**16, (48, 40, 3), dtype=np.uint16)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK"])
def test_files_of_8_bits_are_read_as_anomalib_does(mode, tmp_path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray((RGB >> 8).astype(np.uint8)).convert(mode).save(path)
    found = read_image(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, read_in_anomalib(path), rtol=0, atol=1e-7)


def save_png(values: np.ndarray, path) -> None:
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("save", "values", "white", "expected"),
    [
        (save_png, GRAY, None, gray(GRAY / 65535)),
        (tifffile.imwrite, GRAY, None, gray(GRAY / 65535)),
        (lambda values, path: tifffile.imwrite(path, values, byteorder=">"), GRAY, None, gray(GRAY / 65535)),
        (save_png, GRAY >> 4, 4095, gray((GRAY >> 4) / 4095)),
        (tifffile.imwrite, GRAY.astype(np.int32), 65535, gray(GRAY / 65535)),
        (tifffile.imwrite, (GRAY / 65535).astype(np.float32), 1, gray(GRAY / 65535)),
        (lambda values, path: tifffile.imwrite(path, values, photometric="rgb"), RGB, None, (RGB >> 8) / 255),
    ],
)
def test_more_bits_are_scaled(save, values, white, expected, tmp_path) -> None:
    path = tmp_path / ("a.png" if save is save_png else "a.tif")
    save(path, values) if save is tifffile.imwrite else save(values, path)
    found = read_image(path, white)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


PLANAR = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.mark.parametrize(
    ("values", "settings", "white", "words"),
    [
        (GRAY, {}, 4095, r"has pixels from \d+ to \d+, expected 0 to 4095: give another white"),
        (GRAY, {"photometric": "miniswhite"}, None, "stores white as 0; save it with black as 0"),
        (GRAY.astype(np.int32), {}, None, "no number is known to be white: give white"),
        (GRAY.astype(np.int16), {}, 65535, "has pixels from -"),
        (np.full((4, 4), np.nan, np.float32), {}, 1, "has pixels from nan to nan"),
        (GRAY.astype(np.uint8), {}, 4095, "no gray image of more than 8 bits: read it without white, got 4095"),
        (np.moveaxis(RGB, -1, 0), PLANAR, None, "16-bit colours in separate planes"),
    ],
)
def test_what_cannot_be_read_right_is_refused(values, settings, white, words, tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, **settings)
    with pytest.raises(ValueError, match=rf"a\.tif.* {words}"):
        read_image(tmp_path / "a.tif", white)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_refused(content, tmp_path) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read: "):
        read_image(tmp_path / "a.png")


def test_a_garbled_file_is_named_before_training(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(RGB, -1, 0), **PLANAR)
    assert "separate planes" in reading_fault(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(RGB >> 8, -1, 0).astype(np.uint8), **PLANAR)
    assert reading_fault(tmp_path / "a.tif") is None


def test_a_model_of_8_bit_copies_scores_the_files_of_the_camera(daad, data_root, tmp_path, monkeypatch) -> None:
    """Files of 12 bits, of a model that was trained on 8-bit images, by the inferencers."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencers = [
        TorchInferencer(Daad.load_from_checkpoint(daad.checkpoint).to_torch(tmp_path), device="cpu"),
        OpenVINOInferencer(daad.onnx, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"}),
    ]
    for name in ("000.png", "001.png"):
        copy = data_root / "part/test/good" / name
        pixels = np.asarray(Image.open(copy).convert("L"))
        Image.fromarray(pixels).save(tmp_path / f"copy {name}")
        save_png((pixels / 255 * 4095).round().astype(np.uint16), tmp_path / name)
        for inferencer in inferencers:
            expected = float(inferencer.predict(tmp_path / f"copy {name}").pred_score.item())
            assert 0 < expected < 1
            assert float(inferencer.predict(read_image(tmp_path / name, 4095)).pred_score.item()) == pytest.approx(
                expected, abs=0.02
            )
            assert abs(float(inferencer.predict(tmp_path / name).pred_score.item()) - expected) > 0.1  # read as white

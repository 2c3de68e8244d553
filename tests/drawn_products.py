# SPDX-License-Identifier: Apache-2.0

"""Drawn products with small and faint defects, in MVTec AD's layout: four kinds, always the same.

A coin, an engraved plate, a circuit board and a piece of leather, 256x256 pixels. Each has scratches little brighter or
darker than their ground, coloured specks of two to four pixels, faults of what is printed on it (leather: of its
stitches) and cracks a pixel wide. They are drawings: they show which of two detectors sees more, not what either
reaches on photographs.

Example:
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     datamodule = DrawnProducts(folder, "coin", num_train=4, num_good=2, num_defective=4)
    ...     datamodule.setup()
    ...     len(datamodule.train_data), len(datamodule.test_data)
    (4, 6)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from anomalib.data import MVTecAD
from numpy.random import Generator
from numpy.typing import NDArray

SIZE = 256
DEFECTS = ("scratch", "speck", "print", "crack")
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(np.float32)

Image = NDArray[np.float32]  # (256, 256, 3), BGR in [0, 255]
Mask = NDArray[np.uint8]  # (256, 256), 0 or 255


class DrawnProducts(MVTecAD):
    """Datamodule of one drawn product, which is drawn where its folder is not there yet.

    Args:
        root (str | Path): Folder of the products.
        category (str): ``"coin"``, ``"plate"``, ``"board"`` or ``"leather"``.
        num_train (int): Good images to train on. Defaults to ``120``.
        num_good (int): Good images to test on. Defaults to ``40``.
        num_defective (int): Defective images to test on, a quarter of each kind. Defaults to ``80``.
        kwargs (Any): As of :class:`MVTecAD`.
    """

    def __init__(
        self,
        root: str | Path,
        category: str,
        num_train: int = 120,
        num_good: int = 40,
        num_defective: int = 80,
        **kwargs: Any,
    ) -> None:
        folder = Path(root) / category
        if not folder.exists():
            draw_product(folder, category, num_train, num_good, num_defective)
        super().__init__(root, category, **{"train_batch_size": 8, "num_workers": 0, **kwargs})


def draw_product(folder: Path, category: str, num_train: int, num_good: int, num_defective: int) -> None:
    """Draw the images of a product.

    Args:
        folder (Path): Folder of the category.
        category (str): Product.
        num_train (int): Good images to train on.
        num_good (int): Good images to test on.
        num_defective (int): Defective images to test on.
    """
    draw = PRODUCTS[category]
    rng = np.random.default_rng(list(PRODUCTS).index(category) + 400)
    for name, count in (("train/good", num_train), ("test/good", num_good)):
        for index in range(count):
            _save(draw(rng, None)[0], folder / name / f"{index:03d}.png")
    for index in range(num_defective):
        kind = DEFECTS[index % len(DEFECTS)]
        image, ground, faulty = draw(rng, kind)
        image, mask = (image, faulty) if kind == "print" else _spoil(rng, image, ground, kind)
        _save(image, folder / "test" / kind / f"{index:03d}.png")
        _save(mask, folder / "ground_truth" / kind / f"{index:03d}_mask.png")


def _spoil(rng: Generator, image: Image, ground: Mask, kind: str) -> tuple[Image, Mask]:
    """Draw a defect somewhere on the product; until it shows at least four pixels."""
    places = np.argwhere(ground > 0)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    while (mask > 0).sum() < 4:
        row, column = places[rng.integers(len(places))]
        mask = np.zeros((SIZE, SIZE), np.uint8)
        if kind == "scratch":
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(15, 45)
            end = (int(column + length * np.cos(angle)), int(row + length * np.sin(angle)))
            cv2.line(mask, (int(column), int(row)), end, 255, int(rng.integers(1, 3)))
        elif kind == "speck":
            for _ in range(rng.integers(1, 4)):
                near = (int(column + rng.integers(-12, 13)), int(row + rng.integers(-12, 13)))
                cv2.circle(mask, near, int(rng.integers(1, 3)), 255, -1)
        else:
            steps = rng.normal(rng.uniform(-4, 4, 2), 3, (int(rng.integers(4, 9)), 2))
            points = np.cumsum(np.vstack([[column, row], steps]), axis=0).round().astype(np.int32)
            cv2.polylines(mask, [points], False, 255, 1)
        mask[ground == 0] = 0
    change = {
        "scratch": rng.choice([-1, 1]) * rng.uniform(14, 30) * np.ones(3),
        "speck": rng.uniform(-70, 70, 3),
        "crack": -rng.uniform(35, 60) * np.ones(3),
    }[kind]
    soft = cv2.GaussianBlur(mask, (0, 0), 0.6)[..., None].astype(np.float32) / 255
    return image + soft / max(float(soft.max()), 1e-3) * change.astype(np.float32), mask


def _noise(rng: Generator, sigma: float | tuple[float, float], deviation: float) -> NDArray[np.float32]:
    across, down = (sigma, sigma) if isinstance(sigma, int | float) else sigma
    smooth = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)).astype(np.float32), (0, 0), across, sigmaY=down)
    return deviation * smooth / smooth.std()


def _text(words: str, place: tuple[int, int], scale: float, thickness: int = 2) -> Mask:
    return cv2.putText(
        np.zeros((SIZE, SIZE), np.uint8), words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA
    )


def _imprint(rng: Generator, words: str, place: tuple[int, int], scale: float, kind: str | None) -> tuple[Mask, Mask]:
    """What is printed, and where it is faulty: a part of it is gone, or lies a few pixels elsewhere."""
    right = _text(words, place, scale)
    if kind != "print":
        return right, np.zeros_like(right)
    rows, columns = np.nonzero(right)
    left = int(rng.integers(columns.min(), columns.max() - 12))
    top, bottom, wide = int(rows.min()), int(rows.max()) + 1, int(rng.integers(8, 20))
    wrong = right.copy()
    part = right[top:bottom, left : left + wide]
    wrong[top:bottom, left : left + wide] = np.roll(part, 3, axis=0) if rng.random() < 0.5 else part // 4
    return wrong, np.where(np.abs(wrong.astype(int) - right) > 60, 255, 0).astype(np.uint8)


def _lit(rng: Generator, image: Image) -> Image:
    """Light and noise of a camera."""
    return image * rng.uniform(0.95, 1.05) + rng.normal(0, 2.5, image.shape).astype(np.float32)


def coin(rng: Generator, kind: str | None) -> tuple[Image, Mask, Mask]:
    """A coin with a rim, rays and a number."""
    center = 128 + rng.uniform(-1.5, 1.5, 2)
    distance = np.hypot(COLUMNS - center[0], ROWS - center[1])
    angle = np.arctan2(ROWS - center[1], COLUMNS - center[0])
    metal = 150 + 18 * np.sin(36 * angle) * ((distance > 70) & (distance < 92)) + _noise(rng, 1.2, 4)
    metal += 35 * np.exp(-((distance - 102) ** 2) / 12) - 30 * np.exp(-((distance - 96) ** 2) / 8)
    imprint, faulty = _imprint(rng, "250", (78, 146), 1.7, kind)
    shade = cv2.GaussianBlur(imprint, (0, 0), 1.0).astype(np.float32) / 255
    metal += 30 * (shade - np.roll(shade, (2, 2), (0, 1))) + 20 * shade
    disc = distance < 108
    image = np.where(disc[..., None], metal[..., None] * np.array([0.75, 0.95, 1.0]), 38.0)
    return _lit(rng, image.astype(np.float32)), (distance < 104).astype(np.uint8) * 255, faulty


def plate(rng: Generator, kind: str | None) -> tuple[Image, Mask, Mask]:
    """A brushed plate with four holes and an engraved name."""
    image = (150 + _noise(rng, (12, 0.7), 7))[..., None].repeat(3, axis=2)
    shape = np.zeros((SIZE, SIZE), np.uint8)
    shift = rng.integers(-2, 3, 2)
    cv2.rectangle(shape, (24 + int(shift[0]), 54 + int(shift[1])), (232 + int(shift[0]), 202 + int(shift[1])), 255, -1)
    for column in (44, 212):
        for row in (74, 182):
            cv2.circle(shape, (column + int(shift[0]), row + int(shift[1])), 9, 0, -1)
    imprint, faulty = _imprint(rng, "TYP 4711", (62, 138), 0.9, kind)
    image -= 55 * (imprint[..., None].astype(np.float32) / 255)
    soft = cv2.GaussianBlur(shape, (0, 0), 0.8)[..., None].astype(np.float32) / 255
    image = soft * image + (1 - soft) * 215
    return _lit(rng, image), cv2.erode(shape, np.ones((5, 5))), faulty


def board(rng: Generator, kind: str | None) -> tuple[Image, Mask, Mask]:
    """A circuit board: traces, pads whose solder varies, a marking."""
    image = np.full((SIZE, SIZE, 3), (60.0, 95.0, 40.0), np.float32) + _noise(rng, 3, 3)[..., None]
    layout = np.random.default_rng(7)  # of all boards alike
    for _ in range(14):
        points = np.cumsum(layout.integers(-1, 2, (6, 2)) * 28, axis=0) + layout.integers(40, 216, 2)
        cv2.polylines(image, [points.astype(np.int32)], False, (85, 135, 65), 4, cv2.LINE_AA)
    for _ in range(26):
        place = tuple(int(v) for v in layout.integers(24, 232, 2))
        tone = float(rng.uniform(165, 215))
        cv2.circle(image, place, int(layout.integers(5, 9)), (tone, tone + 5, tone + 10), -1, cv2.LINE_AA)
    cv2.rectangle(image, (96, 96), (168, 150), (42, 40, 40), -1)
    imprint, faulty = _imprint(rng, "R2D7", (100, 130), 0.75, kind)
    image += imprint[..., None].astype(np.float32) / 255 * 120
    ground = np.full((SIZE, SIZE), 255, np.uint8)
    return _lit(rng, cv2.GaussianBlur(image, (0, 0), 0.7)), ground, faulty


def leather(rng: Generator, kind: str | None) -> tuple[Image, Mask, Mask]:
    """Leather: a grain that is nowhere the same, and a seam."""
    grain = _noise(rng, 2.2, 1) + 0.7 * _noise(rng, 4.5, 1)
    image = np.array([55, 75, 120], np.float32) + (9 * np.tanh(1.5 * grain) + _noise(rng, 40, 4))[..., None]
    faulty = np.zeros((SIZE, SIZE), np.uint8)
    left_out = int(rng.integers(1, 12)) if kind == "print" else -1
    row = 60 + int(rng.integers(-3, 4))
    for index, column in enumerate(range(8, SIZE - 8, 19)):
        stitch = cv2.line(np.zeros((SIZE, SIZE), np.uint8), (column, row), (column + 11, row), 255, 3, cv2.LINE_AA)
        if index == left_out:
            faulty = np.where(stitch > 60, 255, 0).astype(np.uint8)
        else:
            image += stitch[..., None].astype(np.float32) / 255 * np.array([70, 75, 60], np.float32)
    ground = np.full((SIZE, SIZE), 255, np.uint8)
    return _lit(rng, image), ground, faulty


PRODUCTS: dict[str, Callable[[Generator, str | None], tuple[Image, Mask, Mask]]] = {
    "coin": coin,
    "plate": plate,
    "board": board,
    "leather": leather,
}


def _save(image: NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))

# SPDX-License-Identifier: Apache-2.0

"""Demo data set: crops of real texture photographs, some with generated defects, in MVTec AD's folder layout.

The photographs of brick, grass and gravel ship inside scikit-image, so that nothing is downloaded. Training crops
come from the left of a photograph, test crops from the right, without a pixel in common. The folder doubles as an
example of the layout that anomalib's ``MVTecAD`` datamodule reads::

    <root>/brick/train/good/000.png
    <root>/brick/test/good/000.png
    <root>/brick/test/scratch/000.png
    <root>/brick/ground_truth/scratch/000_mask.png

Example:
    >>> from anomalib_daad import DemoTextures
    >>> datamodule = DemoTextures(category="brick")
    >>> datamodule.prepare_data()  # doctest: +SKIP
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from anomalib.data import MVTecAD

CROP = 128
TRAIN_WIDTH = 320
TRAIN_COUNT, GOOD_COUNT, DEFECT_COUNT = 120, 30, 10
PHOTOGRAPHS: dict[str, Callable[[], np.ndarray]] = {
    "brick": skimage.data.brick,
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
}


class DemoTextures(MVTecAD):
    """Datamodule of the demo data set; writes it once, then reads it as MVTec AD.

    120 good crops of 128x128 pixels to train on; to test on, 30 good ones and 10 of each defect: ``scratch``,
    ``hole``, ``stain`` and ``swapped_patch``, with exact masks.

    Args:
        root (Path | str): Folder of the data set. Defaults to ``"./datasets/DemoTextures"``.
        category (str): ``"brick"``, ``"grass"`` or ``"gravel"``. Defaults to ``"brick"``.
        train_batch_size (int): Training batch size. Defaults to ``8``.
        eval_batch_size (int): Test batch size. Defaults to ``32``.
        num_workers (int): Number of workers. Defaults to ``0``.
        seed (int | None): Seed of random splits. Defaults to ``None``.

    Raises:
        ValueError: If the category is unknown.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/DemoTextures",
        category: str = "brick",
        train_batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        if category not in PHOTOGRAPHS:
            msg = f"category must be one of {sorted(PHOTOGRAPHS)}, got {category!r}."
            raise ValueError(msg)
        super().__init__(
            root=root,
            category=category,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the data set where it does not exist.

        Raises:
            OSError: If the root cannot be written to.
        """
        write_category(self.root, self.category)

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()
        super()._setup(_stage)


def write_category(root: Path, category: str) -> None:
    """Write one category, whole or not at all; an existing one is left alone.

    Args:
        root (Path): Folder of the data set.
        category (str): ``"brick"``, ``"grass"`` or ``"gravel"``.

    Raises:
        OSError: If the root cannot be written to.
    """
    target = Path(root) / category
    if target.is_dir():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{category}-", dir=target.parent))
    except OSError as error:
        msg = f"Cannot write the demo data set to {root} ({error.strerror}); set root to a folder that is writable."
        raise OSError(msg) from error
    try:
        _write_images(partial, category)
        partial.chmod(0o755)
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # another process has written it meanwhile
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_images(folder: Path, category: str) -> None:
    rng = np.random.default_rng([*category.encode(), 2021])
    photograph = PHOTOGRAPHS[category]()
    train, test = photograph[:, :TRAIN_WIDTH], photograph[:, TRAIN_WIDTH:]
    others = [load() for name, load in PHOTOGRAPHS.items() if name != category]
    for index in range(TRAIN_COUNT):
        _save(folder / f"train/good/{index:03d}.png", _crop(train, rng))
    for index in range(GOOD_COUNT):
        _save(folder / f"test/good/{index:03d}.png", _crop(test, rng))
    for defect, draw in DEFECTS.items():
        for index in range(DEFECT_COUNT):
            crop = _crop(test, rng)
            opacity, content = draw(crop, rng, others)
            image = np.rint(crop + opacity * (content - crop)).clip(0, 255).astype(np.uint8)
            _save(folder / f"test/{defect}/{index:03d}.png", image)
            _save(folder / f"ground_truth/{defect}/{index:03d}_mask.png", ((image != crop) * 255).astype(np.uint8))


def _crop(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.integers(0, size - CROP + 1) for size in photograph.shape)
    return photograph[top : top + CROP, left : left + CROP]


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _blob(rng: np.random.Generator, radius: tuple[int, int], softness: float) -> np.ndarray:
    """Opacity in [0, 1], shape (CROP, CROP), of an irregular disc, its edge blurred by ``softness`` pixels."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = rng.uniform(*radius) * (1 + 0.15 * rng.standard_normal(24)).clip(0.6, 1.4)
    center = rng.uniform(30, CROP - 30, 2)
    outline = center + np.stack([np.cos(angles), rng.uniform(0.6, 1) * np.sin(angles)], axis=1) * radii[:, None]
    opacity = cv2.fillPoly(np.zeros((CROP, CROP), np.float32), [np.rint(outline).astype(np.int32)], 1.0)
    return cv2.GaussianBlur(opacity, (0, 0), softness)


def _scratch(crop: np.ndarray, rng: np.random.Generator, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A thin bent line, bright or dark."""
    del others
    start, end = rng.uniform(10, CROP - 10, (2, 2))
    while np.linalg.norm(end - start) < CROP / 3:
        start, end = rng.uniform(10, CROP - 10, (2, 2))
    middle = (start + end) / 2 + rng.normal(0, 10, 2)
    t = np.linspace(0, 1, 30)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    line = np.zeros((CROP, CROP), np.float32)
    cv2.polylines(line, [np.rint(curve).astype(np.int32)], isClosed=False, color=1.0, thickness=int(rng.integers(2, 4)))
    return cv2.GaussianBlur(line, (0, 0), 0.6), np.full_like(crop, rng.choice([20, 240]), dtype=np.float32)


def _hole(crop: np.ndarray, rng: np.random.Generator, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A dark hole with a ragged edge."""
    del others
    return _blob(rng, (7, 16), 0.8), np.full_like(crop, rng.uniform(5, 30), dtype=np.float32)


def _stain(crop: np.ndarray, rng: np.random.Generator, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A soft stain through which the texture still shows, darker or brighter."""
    del others
    shifted = crop.astype(np.float32) + rng.choice([-1, 1]) * rng.uniform(60, 90)
    return _blob(rng, (14, 26), 3.0), shifted


def _swapped_patch(
    crop: np.ndarray, rng: np.random.Generator, others: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of another texture."""
    del crop
    return _blob(rng, (14, 26), 1.0), _crop(others[rng.integers(len(others))], rng).astype(np.float32)


DEFECTS = {"scratch": _scratch, "hole": _hole, "stain": _stain, "swapped_patch": _swapped_patch}

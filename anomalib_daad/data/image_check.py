# SPDX-License-Identifier: Apache-2.0

"""Image files that anomalib would read wrongly, or not at all, are named before the first of them is needed.

anomalib opens files with Pillow and converts them to 8-bit RGB. Gray images of more than 8 bits are clipped at 255 in
that, so that a 16-bit camera's are all white; 16-bit colours in separate planes come out garbled; a truncated file ends
a run in the middle with an error that does not name it. Training, validation and test refuse such files; a prediction
leaves them out and says so, because one bad file must not cost the results of the others.

Orientation tags (EXIF) are followed nowhere, neither by anomalib nor by its inferencers: all see the stored pixels.

Example:
    >>> reading_fault("no_such_file.png")
    "[Errno 2] No such file or directory: 'no_such_file.png'"
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from anomalib.data.utils.image import is_image_file
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_daad.error_message import first_line

from .in_memory_dataset import InMemoryDataset

logger = logging.getLogger(__name__)

BITS, PLANES, SEPARATE = 258, 284, 2  # of TIFF: BitsPerSample, PlanarConfiguration and one of its values


def reading_fault(path: str | Path) -> str | None:
    """Why a file cannot be read as an 8-bit RGB image.

    Args:
        path (str | Path): Image file.

    Returns:
        str | None: One line; None where it can be read.
    """
    try:
        with Image.open(path) as image:
            if is_deep_gray(image):
                return f"Pillow's mode {image.mode}, more than 8 bits a pixel, would be read as white"
            if is_garbled(image):
                return "16-bit colours in separate planes, which Pillow garbles"
            image.draft("RGB", (1, 1))  # a JPEG is read to its end, but decoded small
            image.convert("RGB")
    except Exception as error:  # what Pillow raises on a bad file is not one family
        return first_line(error)
    return None


def is_deep_gray(image: Image.Image) -> bool:
    """Whether an image is gray with more than 8 bits a pixel, which a conversion to RGB clips to white.

    Args:
        image (Image.Image): Opened image.

    Returns:
        bool: True for Pillow's modes of 16 and 32 bits and of floats.
    """
    return image.mode.startswith(("I", "F"))


def is_garbled(image: Image.Image) -> bool:
    """Whether an image has 16-bit colours in separate planes, which Pillow takes for 8-bit ones.

    Args:
        image (Image.Image): Opened image.

    Returns:
        bool: True for such a TIFF.
    """
    tags: Any = getattr(image, "tag_v2", {})
    return tags.get(PLANES) == SEPARATE and max(tags.get(BITS, (8,))) > 8


def check_image_files(trainer: Trainer) -> None:
    """Check the files that a trainer is about to read: refuse those that fail, or leave them out of a prediction.

    Args:
        trainer (Trainer): Trainer whose data are set up.

    Raises:
        ValueError: If a file cannot be read as an 8-bit RGB image; in a prediction, if no file can; or if there is
            no image to train on.
    """
    is_prediction = trainer.state.fn == TrainerFn.PREDICTING
    datamodule: Any = getattr(trainer, "datamodule", None)
    is_fit = trainer.state.fn == TrainerFn.FITTING
    if is_fit and isinstance(datamodule, AnomalibDataModule) and not len(datamodule.train_data):
        msg = f"The data set {datamodule.name} has no training image; training needs at least one good image."
        raise ValueError(msg)
    for dataset in _datasets(trainer):
        paths = _files(dataset)
        with ThreadPoolExecutor() as pool:
            faults = {path: fault for path, fault in zip(paths, pool.map(reading_fault, paths), strict=True) if fault}
        if not faults:
            continue
        path, fault = next(iter(faults.items()))
        if not is_prediction or len(faults) == len(paths):
            msg = f"{len(faults)} of {len(paths)} images cannot be read, the first is {path} ({fault}); "
            msg += "replace such files, 16-bit ones by 8-bit ones, or take them out of the data."
            raise ValueError(msg)
        for path, fault in faults.items():
            logger.warning("%s is not predicted: %s", path, fault)
        logger.warning("%d of %d images cannot be read and are not predicted.", len(faults), len(paths))
        _keep(dataset, [index for index, path in enumerate(paths) if path not in faults])


def _datasets(trainer: Trainer) -> Iterator[Any]:
    fit_loop = trainer.fit_loop
    used: dict[Any, list[tuple[Any, str]]] = {
        TrainerFn.FITTING: [(fit_loop, "train_data"), (fit_loop.epoch_loop.val_loop, "val_data")],
        TrainerFn.VALIDATING: [(trainer.validate_loop, "val_data")],
        TrainerFn.TESTING: [(trainer.test_loop, "test_data")],
        TrainerFn.PREDICTING: [(trainer.predict_loop, "test_data")],
    }
    for loop, part in used[trainer.state.fn]:
        source = loop._data_source.instance  # noqa: SLF001
        if isinstance(source, AnomalibDataModule):
            yield getattr(source, part, None)
        else:
            yield from (getattr(it, "dataset", None) for it in (source if isinstance(source, list) else [source]))


def _files(dataset: Any) -> list[Path]:
    """Image files of a data set of anomalib's; none of another, whose reading is not known."""
    if isinstance(dataset, PredictDataset):
        return list(dataset.image_filenames)
    if isinstance(dataset, AnomalibDataset) and not isinstance(dataset, InMemoryDataset):
        return [Path(path) for path in dataset.samples.image_path if is_image_file(path)]
    return []


def _keep(dataset: Any, indices: list[int]) -> None:
    if isinstance(dataset, PredictDataset):
        dataset.image_filenames = [dataset.image_filenames[index] for index in indices]
    else:
        dataset.subsample(indices, inplace=True)

# SPDX-License-Identifier: Apache-2.0

"""Regions of images that do not count, such as a clamp or a printed date."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate, max_pool2d

logger = logging.getLogger(__name__)
WHITE = 128  # from here on a pixel of the mask is white
MARGIN = 1  # pixels of the network around the region: test images may be resized by another factor than the mask


class IgnoreMask(Callback):
    """Lets a model of this package ignore a region of all images, in training, scores, maps and exports.

    The region is painted grey before the network sees an image, so that nothing in it changes a score or a map. The
    model keeps it: who tests, predicts or exports needs no mask.

    Args:
        path (str | Path): Mask of the images' size, of which white is ignored.

    Raises:
        ValueError: If the mask cannot be read, or has no white pixel or nothing else.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[IgnoreMask("clamp.png")])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with Image.open(self.path) as image:
                self.mask = torch.from_numpy(np.asarray(image.convert("L")) >= WHITE)
        except (OSError, UnidentifiedImageError) as error:
            msg = f"The mask {self.path} cannot be read ({error}): give a PNG of which white is ignored."
            raise ValueError(msg) from error
        if self.mask.all() or not self.mask.any():
            msg = f"The mask {self.path} is {'all' if self.mask.all() else 'nowhere'} white: white is ignored, the "
            msg += "rest is judged."
            raise ValueError(msg)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the region to a model that is to be trained.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model of this package.
            stage (str): What begins.

        Raises:
            ValueError: If the model is of another package, or the images have another size than the mask.
        """
        if stage != "fit":
            return
        network: Any = pl_module.model
        if not hasattr(network, "ignored"):
            msg = f"{type(pl_module).__name__} cannot ignore a region: models of anomalib_daad can."
            raise ValueError(msg)
        self._refuse_other_sizes(trainer)
        shown = self.mask[None, None].float()  # (1, 1, H, W)
        seen = interpolate(shown, network.image_size, mode="bilinear", antialias=True) > 0
        grown = max_pool2d(seen.float(), 2 * MARGIN + 1, stride=1, padding=MARGIN) > 0
        network.ignored = grown.to(pl_module.device)

    def _refuse_other_sizes(self, trainer: Trainer) -> None:
        samples = getattr(getattr(getattr(trainer, "datamodule", None), "train_data", None), "samples", None)
        if samples is None or "image_path" not in samples or not len(samples):
            return
        with Image.open(samples["image_path"].iloc[0]) as image:
            size = image.size
        if size != tuple(self.mask.shape[::-1]):
            msg = f"The mask {self.path} has {self.mask.shape[1]}x{self.mask.shape[0]} pixels, the images have "
            msg += f"{size[0]}x{size[1]}: draw it on one of the images."
            raise ValueError(msg)

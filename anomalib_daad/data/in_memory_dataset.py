# SPDX-License-Identifier: Apache-2.0

"""anomalib data set whose images lie in memory: small images cost more to open than to score.

Example:
    >>> import numpy as np
    >>> from pandas import DataFrame
    >>> images = [np.zeros((28, 28), np.uint8)] * 2
    >>> samples = DataFrame({"image_path": ["0", "1"], "split": "test", "label_index": [0, 1], "image": images})
    >>> InMemoryDataset(samples)[0].image.shape
    torch.Size([3, 28, 28])
"""

import torch
from anomalib.data import AnomalibDataset, ImageItem
from pandas import DataFrame
from torchvision.transforms.v2.functional import grayscale_to_rgb, to_dtype, to_image


class InMemoryDataset(AnomalibDataset):
    """Classification data set that takes its images from its table of samples; a subset shares them.

    Args:
        samples (DataFrame): A row for each image, with the columns ``image_path`` (its unique name, which need not be a
            file), ``split``, ``label_index`` (0 is normal, 1 anomalous) and ``image`` (an array of shape ``(H, W)`` or
            ``(H, W, 3)``, uint8). The rows are sorted by ``image_path``.
    """

    def __init__(self, samples: DataFrame) -> None:
        super().__init__()
        self.samples = samples

    @property
    def samples(self) -> DataFrame:
        """The table of samples; unlike anomalib's data sets, it takes names of images that are no files."""
        return super().samples

    @samples.setter
    def samples(self, samples: DataFrame) -> None:
        self._samples = samples.sort_values(by="image_path", ignore_index=True)

    def __getitem__(self, index: int) -> ImageItem:
        """Return an image with its label.

        Args:
            index (int): Row of the samples.

        Returns:
            ImageItem: Image, shape ``(3, H, W)``, in [0, 1], gray repeated to three channels; label and name.
        """
        sample = self.samples.iloc[index]
        image = to_dtype(grayscale_to_rgb(to_image(sample.image)), torch.float32, scale=True)  # (3, H, W)
        if self.augmentations is not None:
            image = self.augmentations(image)
        return ImageItem(image=image, gt_label=torch.tensor(sample.label_index), image_path=sample.image_path)

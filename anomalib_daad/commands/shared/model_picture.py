# SPDX-License-Identifier: Apache-2.0

"""What a model sees, expects and finds odd, in the place, the proportions and the colours of the image."""

from typing import Any

import cv2
import numpy as np
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import CenterCrop, Resize

from anomalib_daad.training.judgement_pictures import THRESHOLD


def to_picture(images: torch.Tensor, size: tuple[int, int] | None = None) -> np.ndarray:
    """Make an image that a model saw or made a picture.

    Args:
        images (torch.Tensor): One image in [-1, 1], shape ``(1, 3, h, w)``.
        size (tuple[int, int] | None): Height and width of the picture; None for those of the image. Defaults to
            ``None``.

    Returns:
        np.ndarray: RGB in [0, 1], shape ``(H, W, 3)``.
    """
    colours = images if size in {None, images.shape[-2:]} else interpolate(images, size, mode="bilinear")
    return ((colours[0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()


@torch.inference_mode()
def expected_picture(model: Any, image: np.ndarray) -> np.ndarray:
    """Show what a model expected in place of an image.

    Args:
        model (Any): Model of this package.
        image (np.ndarray): RGB in [0, 1], float32, shape ``(H, W, 3)``.

    Returns:
        np.ndarray: RGB in [0, 1], same shape; black where the model's pre-processor cuts the image off.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(model.device)
    expected = model.model.explain(model.pre_processor(pixels) if callable(model.pre_processor) else pixels).expected
    return fit(to_picture(expected), image, seen_share(model))


@torch.inference_mode()
def normalise(model: Any, maps: np.ndarray) -> np.ndarray:
    """Scale maps by the model's threshold as anomalib does, so that good images look calm whatever others hold.

    Args:
        model (Any): Model.
        maps (np.ndarray): As the network gives them, shape ``(n, h, w)``.

    Returns:
        np.ndarray: In [0, 1], where 0.5 is the threshold, same shape. Of a model that saw no validation images the
        strongest point of all maps is 0.5, so that none is beyond it.
    """
    post_processor = model.post_processor
    if not isinstance(post_processor, PostProcessor) or not _has_range(post_processor):
        low, high = float(np.nanmin(maps)), float(np.nanmax(maps))
        return (maps - low) / max(high - low, 1e-12) * THRESHOLD
    raw = torch.from_numpy(np.asarray(maps, np.float32))[:, None].to(post_processor.pixel_min.device)
    scaled: Any = post_processor(InferenceBatch(pred_score=raw.amax(dim=(1, 2, 3)), anomaly_map=raw)).anomaly_map
    return np.asarray(scaled[:, 0].cpu().numpy())


def _has_range(post_processor: PostProcessor) -> bool:
    return post_processor.enable_normalization and not bool(post_processor.pixel_min.isnan())


def seen_share(model: Any) -> tuple[float, float]:
    """Share of the image that a model sees: all of it, or the middle where its pre-processor crops.

    Args:
        model (Any): Model.

    Returns:
        tuple[float, float]: Of the height and of the width, in (0, 1].
    """
    transform = getattr(model.pre_processor, "transform", None)
    steps = list(getattr(transform, "transforms", [transform]))
    sizes = [_size(step.size) for step in steps if isinstance(step, Resize)]
    crops = [_size(step.size) for step in steps if isinstance(step, CenterCrop)]
    if not sizes or not crops:
        return 1.0, 1.0
    (height, width), (crop_height, crop_width) = sizes[0], crops[-1]
    return min(1.0, crop_height / height), min(1.0, crop_width / width)


def _size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return sides[0], sides[-1]


def fit(values: np.ndarray, picture: np.ndarray, share: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Give what a model saw or made the proportions that the image has.

    Args:
        values (np.ndarray): Shape ``(h, w)`` or ``(h, w, 3)``.
        picture (np.ndarray): Image, shape ``(H, W, 3)``.
        share (tuple[float, float]): Share of height and width, in the middle, that was seen; around it there are zeros.

    Returns:
        np.ndarray: Shape ``(H, W)`` or ``(H, W, 3)``.
    """
    height, width = (max(1, round(side * part)) for side, part in zip(picture.shape[:2], share, strict=True))
    seen = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    if seen.shape[:2] == picture.shape[:2]:
        return np.asarray(seen)
    whole = np.zeros((*picture.shape[:2], *seen.shape[2:]), seen.dtype)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    whole[top : top + height, left : left + width] = seen
    return whole

# SPDX-License-Identifier: Apache-2.0

"""Pictures of tests and predictions: the image, what the model expected, what is odd, score and verdict.

anomalib's own scale each map by itself, so that a good image is as colourful as a defective one. Here colours are those
of the threshold, and what a model of this package is worth looking at for, what it expected, is shown too.

Example:
    >>> from anomalib_daad import DaadRestoration
    >>> type(DaadRestoration().visualizer).__name__
    'JudgementVisualizer'
"""

from pathlib import Path
from typing import Any

import anomalib.data.utils
import cv2
import numpy as np
import torch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from PIL import Image, ImageDraw, ImageFont

THRESHOLD = 0.5  # of anomalib's normalised scores and maps
_FROM, _TO, _STRONGEST = 0.42, 0.75, 0.6  # of a map: where colour begins and where it is strongest, and how strong
_PALE, _DEEP = np.array([255.0, 200.0, 60.0]), np.array([213.0, 40.0, 0.0])  # RGB
_MARGIN, _LINE = 8, 30  # pixels
_INK, _DEFECTIVE, _GOOD = (30, 30, 30), (180, 50, 0), (0, 90, 140)
_BEYOND, _TRUE = (200, 0, 0), (0, 130, 60)  # outlines


def highlight(image: np.ndarray, anomaly_map: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Colour an image where it is odd, and outline what is beyond the threshold; a good image stays as it is.

    Args:
        image (np.ndarray): RGB in [0, 1], shape ``(H, W, 3)``.
        anomaly_map (np.ndarray): Scaled so that 0.5 is the threshold of pixels, shape ``(h, w)``.
        threshold (float): Of the outline. Defaults to ``0.5``.

    Returns:
        np.ndarray: RGB in [0, 255], uint8, shape ``(H, W, 3)``.
    """
    height, width = image.shape[:2]
    heat = cv2.resize(np.nan_to_num(anomaly_map, posinf=1.0), (width, height), interpolation=cv2.INTER_LINEAR)
    strength = np.clip((heat - _FROM) / (_TO - _FROM), 0, 1)[..., None]
    colour = _PALE + (_DEEP - _PALE) * strength
    shown = 255 * image * (1 - _STRONGEST * strength) + colour * _STRONGEST * strength
    drawn = np.ascontiguousarray(shown.clip(0, 255).astype(np.uint8))
    outline(drawn, heat > threshold, _BEYOND)
    return drawn


def outline(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw the border of a mask into a picture.

    Args:
        picture (np.ndarray): RGB, uint8, shape ``(H, W, 3)``; is changed.
        mask (np.ndarray): Boolean, shape ``(H, W)``.
        colour (tuple[int, int, int]): RGB.
    """
    borders = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    thickness = max(1, round(max(mask.shape) / 200))
    cv2.drawContours(picture, borders, -1, (255, 255, 255), 3 * thickness)
    cv2.drawContours(picture, borders, -1, colour, thickness)


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the outline of the true defect into an image.

    Args:
        image (np.ndarray): RGB in [0, 1], shape ``(H, W, 3)``.
        mask (np.ndarray): Boolean, shape ``(h, w)``.

    Returns:
        np.ndarray: RGB in [0, 255], uint8, shape ``(H, W, 3)``.
    """
    drawn = np.ascontiguousarray((255 * image).clip(0, 255).astype(np.uint8))
    outline(drawn, cv2.resize(mask.astype(np.uint8), drawn.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0, _TRUE)
    return drawn


class JudgementVisualizer(ImageVisualizer):
    """Saves a picture of each image of a test or a prediction where anomalib saves its own.

    Args:
        field_size (tuple[int, int]): Width and height of each view; views keep the image's proportions, so the height
            counts. Defaults to ``(256, 256)``.
        output_dir (str | Path | None): Folder. Defaults to ``None``, that of the run.
    """

    def __init__(self, field_size: tuple[int, int] = (256, 256), output_dir: str | Path | None = None) -> None:
        super().__init__(field_size=field_size, output_dir=output_dir)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw a batch.

        Args:
            trainer (Any): Trainer.
            pl_module (Any): Model of this package.
            outputs (Any): Not used.
            batch (Any): Judged images.
            batch_idx (int): Not used.
            dataloader_idx (int): Not used.
        """
        del outputs, batch_idx, dataloader_idx
        with torch.no_grad():
            expected = pl_module.model.explain(batch.image).expected
        pictures = ((expected + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).float().nan_to_num().cpu().numpy()
        if self.output_dir is None:
            self.output_dir = Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        for item, picture in zip(batch, pictures, strict=True):
            path = generate_output_filename(
                input_path=item.image_path or "",
                output_path=self.output_dir,
                dataset_name=getattr(datamodule, "name", None),
                category=getattr(datamodule, "category", None),
            )
            self._draw(item, picture).save(path)

    def _draw(self, item: Any, expected: np.ndarray) -> Image.Image:
        if item.image_path:
            image = np.asarray(anomalib.data.utils.read_image(item.image_path, as_tensor=False), np.float32)
        else:  # of a loader of the user's
            image = ((item.image.float().cpu() + 1) / 2).clamp(0, 1).nan_to_num().permute(1, 2, 0).numpy()
        panes = [("image", (255 * image).astype(np.uint8)), ("expected", (255 * expected).astype(np.uint8))]
        if item.anomaly_map is not None:
            heat = item.anomaly_map.float().cpu().numpy().squeeze()
            panes.append(("odd", highlight(image, heat)))
        if item.gt_mask is not None and item.gt_mask.any():
            panes.append(("true defect", outlined(image, item.gt_mask.cpu().numpy().squeeze())))
        height = self.field_size[1]
        width = max(1, round(height * image.shape[1] / image.shape[0]))
        sheet = Image.new(
            "RGB", (len(panes) * (width + _MARGIN) + _MARGIN, height + 2 * _LINE + _MARGIN), (255, 255, 255)
        )
        drawing, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
        verdict, colour = _verdict(item)
        drawing.text((_MARGIN, 4), verdict, fill=colour, font=font)
        for index, (what, pane) in enumerate(panes):
            left = _MARGIN + index * (width + _MARGIN)
            resized = Image.fromarray(pane).resize((width, height), Image.Resampling.BILINEAR)
            sheet.paste(resized, (left, _LINE))
            drawing.text((left, _LINE + height + 2), what, fill=_INK, font=font)
        return sheet


def _verdict(item: Any) -> tuple[str, tuple[int, int, int]]:
    score = "" if item.pred_score is None else f"score {float(item.pred_score):.3f}"
    if item.pred_label is None:
        return score, _INK
    is_defective = bool(item.pred_label)
    return f"{score}: {'defective' if is_defective else 'good'}", _DEFECTIVE if is_defective else _GOOD

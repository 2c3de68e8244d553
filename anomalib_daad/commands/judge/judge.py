# SPDX-License-Identifier: Apache-2.0

"""What a model says of an image, whatever file the model lies in."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from anomalib_daad.commands.shared.model_picture import expected_picture
from anomalib_daad.commands.shared.trained_model import load_model
from anomalib_daad.safetensors_file import load_safetensors
from anomalib_daad.training.run_checks import refuse_untrained

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's default moves scores on processors with bfloat16
EXPORTS = (".onnx", ".xml", ".pt")


class Judgement(NamedTuple):
    """What a model says of an image.

    Attributes:
        score (float): Anomaly score; of a model with thresholds in [0, 1], where 0.5 is the threshold.
        is_defective (bool | None): The model's own verdict; None where it has no threshold.
        anomaly_map (np.ndarray | None): Scaled as the score is, shape ``(h, w)``; None where the model makes none.
    """

    score: float
    is_defective: bool | None
    anomaly_map: np.ndarray | None


class Judge(Protocol):
    """A model that judges images, RGB in [0, 1] of shape ``(H, W, 3)``, float32.

    Attributes:
        threshold (float | None): Its own threshold; None where it has none, or does not tell.
    """

    threshold: float | None

    def judge(self, image: np.ndarray) -> Judgement:
        """Judge an image."""

    def expect(self, image: np.ndarray) -> np.ndarray | None:
        """Show what the model expected in its place, in [0, 1], shape ``(H, W, 3)``; None where it cannot say."""


class TrainedJudge:
    """A model of this package with all its parts.

    Args:
        model (Any): Model in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        refuse_untrained(model.model, type(model).__name__)
        self.model = model
        self.threshold = _threshold(model.post_processor)

    @torch.inference_mode()
    def judge(self, image: np.ndarray) -> Judgement:
        """Judge an image."""
        output = self.model(self._pixels(image))
        has_verdict = self.threshold is not None and output.pred_label is not None
        label = bool(output.pred_label.flatten()[0]) if has_verdict else None
        return Judgement(float(output.pred_score.flatten()[0]), label, _plane(output.anomaly_map))

    def expect(self, image: np.ndarray) -> np.ndarray:
        """Show what the model expected in an image's place."""
        return expected_picture(self.model, image)

    def _pixels(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self.model.device)


class ExportedJudge:
    """A model that was exported, in anomalib's inferencer.

    Args:
        inferencer (Any): Inferencer.
    """

    def __init__(self, inferencer: Any) -> None:
        self.inferencer = inferencer
        self.threshold: float | None = None  # the file holds it and does not tell

    def judge(self, image: np.ndarray) -> Judgement:
        """Judge an image."""
        try:
            output = self.inferencer.predict(image)
        except RuntimeError as error:
            height, width = image.shape[:2]
            msg = f"the export takes no image of {width}x{height} pixels; export it without an input size"
            raise ValueError(msg) from error
        label = None if output.pred_label is None else bool(np.asarray(output.pred_label).flatten()[0])
        return Judgement(float(np.asarray(output.pred_score).flatten()[0]), label, _plane(output.anomaly_map))

    def expect(self, image: np.ndarray) -> None:
        """An export holds no reconstruction."""
        del image


def _threshold(post_processor: Any) -> float | None:
    """Threshold of the scores that a post-processor gives; None where it has none."""
    raw = float(getattr(post_processor, "image_threshold", torch.nan))
    if np.isnan(raw) or not post_processor.enable_thresholding:
        return None
    return 1 - float(post_processor.image_sensitivity) if post_processor.enable_normalization else raw


def _plane(values: Any) -> np.ndarray | None:
    if values is None:
        return None
    array = values.float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, np.float32)
    return array.reshape(array.shape[-2:])


def open_judge(path: Path) -> Judge:
    """Open a model.

    Args:
        path (Path): Checkpoint or safetensors file of a model of this package; or an export of any of anomalib's
            models, ONNX, OpenVINO (``.xml``) or PyTorch (``.pt``, which is a pickle and needs ``TRUST_REMOTE_CODE=1``).

    Returns:
        Judge: The model.

    Raises:
        ValueError: If there is no such file, or it is none of these.
    """
    if not path.is_file():
        msg = f"There is no model {path}: give a checkpoint, such as weights/lightning/model.ckpt, or an export."
        raise ValueError(msg)
    if path.suffix == ".safetensors":
        return TrainedJudge(load_safetensors(path))
    if path.suffix == ".bin":
        msg = f"{path} holds an OpenVINO model's weights alone: give {path.with_suffix('.xml')}."
        raise ValueError(msg)
    if path.suffix in EXPORTS:
        return ExportedJudge(_open_inferencer(path))
    return TrainedJudge(load_model(path))


def _open_inferencer(path: Path) -> Any:
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    if path.suffix == ".pt" and os.environ.get("TRUST_REMOTE_CODE", "") not in {"1", "true", "True"}:
        msg = f"{path} is a pickle, which runs whatever code it holds: set TRUST_REMOTE_CODE=1 if you trust it."
        raise ValueError(msg)
    try:
        if path.suffix == ".pt":
            return TorchInferencer(path)
        return OpenVINOInferencer(path, device="CPU", config=F32)
    except ImportError as error:
        msg = f'{path} needs OpenVINO to be judged by: pip install "anomalib-daad[openvino]".'
        raise ValueError(msg) from error
    except (RuntimeError, KeyError) as error:
        msg = f"{path} is no export that can be opened: {' '.join(str(error).split())[:300]}"
        raise ValueError(msg) from error

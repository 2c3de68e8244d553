# SPDX-License-Identifier: Apache-2.0

"""What a model says of an image, whatever file the model lies in."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from anomalib_daad.commands.shared.model_picture import expected_picture
from anomalib_daad.commands.shared.trained_model import load_trained, refuse_no_model
from anomalib_daad.training.export_description import raw_score, read_description
from anomalib_daad.training.run_checks import refuse_untrained

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's default moves scores on processors with bfloat16
EXPORTS = (".onnx", ".xml", ".pt")


class Judgement(NamedTuple):
    """What a model says of an image.

    Attributes:
        score (float): Anomaly score; of a model with thresholds in [0, 1], where 0.5 is the threshold.
        is_defective (bool | None): The model's own verdict; None where it has no threshold.
        anomaly_map (np.ndarray | None): Scaled as the score is, shape ``(h, w)``; None where the model makes none.
        p_value (float | None): Share of good images that look at least as odd; None where the model cannot tell.
        raw_score (float | None): Score before it was scaled to [0, 1]; None where the model cannot tell.
    """

    score: float
    is_defective: bool | None
    anomaly_map: np.ndarray | None
    p_value: float | None = None
    raw_score: float | None = None


class Judge(Protocol):
    """A model that judges images, RGB in [0, 1] of shape ``(H, W, 3)``, float32.

    Attributes:
        threshold (float | None): Its own threshold; None where it has none, or does not tell.
        good_images (int): How many good images the threshold is from; 0 where it is not from good ones alone.
        promised_rate (float): Share of good images that it rejects at most, on average; NaN where that is not known.
    """

    threshold: float | None
    good_images: int
    promised_rate: float

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
        self.good_images = int(getattr(model.post_processor, "good_images", 0))
        self.promised_rate = getattr(model.post_processor, "promised_rate", np.nan)

    @torch.inference_mode()
    def judge(self, image: np.ndarray) -> Judgement:
        """Judge an image."""
        raw = self.model.model(self.model.pre_processor(self._pixels(image)))
        post_processor = self.model.post_processor
        output = raw if post_processor is None else post_processor(raw)
        has_verdict = self.threshold is not None and output.pred_label is not None
        label = bool(output.pred_label.flatten()[0]) if has_verdict else None
        return Judgement(
            float(output.pred_score.flatten()[0]),
            label,
            _plane(output.anomaly_map),
            float(post_processor.p_value(raw.pred_score.flatten())[0]) if self.good_images else None,
            float(raw.pred_score.flatten()[0]),
        )

    def expect(self, image: np.ndarray) -> np.ndarray:
        """Show what the model expected in an image's place."""
        return expected_picture(self.model, image)

    def _pixels(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self.model.device)


class ExportedJudge:
    """A model that was exported, in anomalib's inferencer.

    Args:
        inferencer (Any): Inferencer.
        description (dict[str, Any] | None): What lies beside the export, of this package's; ``None`` without.
    """

    def __init__(self, inferencer: Any, description: dict[str, Any] | None = None) -> None:
        self.inferencer = inferencer
        self.description = description
        # An export of another package holds its threshold and does not tell.
        self.threshold: float | None = description["image_threshold"] if description else None
        self.good_images: int = (description or {}).get("good_images") or 0
        self.promised_rate: float = description["promised_rate"] if description and self.good_images else np.nan

    def judge(self, image: np.ndarray) -> Judgement:
        """Judge an image."""
        try:
            output = self.inferencer.predict(image)
        except RuntimeError as error:
            height, width = image.shape[:2]
            msg = f"the export takes no image of {width}x{height} pixels; export it without an input size"
            raise ValueError(msg) from error
        label = None if output.pred_label is None else bool(np.asarray(output.pred_label).flatten()[0])
        score = float(np.asarray(output.pred_score).flatten()[0])
        return Judgement(score, label, _plane(output.anomaly_map), *tell(score, self.description))

    def expect(self, image: np.ndarray) -> None:
        """An export holds no reconstruction."""
        del image


def tell(score: float, description: dict[str, Any] | None) -> tuple[float | None, float | None]:
    """Tell what an export's score means.

    Args:
        score (float): Score in [0, 1].
        description (dict[str, Any] | None): Description of the export.

    Returns:
        tuple[float | None, float | None]: Its p-value, and the score as the network gave it, which 0 and 1 do not tell;
        None for what is not known.
    """
    if description is None:
        return None, None
    good, raw = description["good_scores"], description["raw"]
    p_value = (1 + sum(it >= score for it in good)) / (1 + len(good)) if good else None
    is_linear = 0 < score < 1 and raw is not None and None not in raw.values()
    return p_value, raw_score(raw, score) if is_linear else None


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
    refuse_no_model(path)
    if path.suffix in EXPORTS:
        description = read_description(path)  # says first where the file is another one
        return ExportedJudge(_open_inferencer(path), description)
    return TrainedJudge(load_trained(path))


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

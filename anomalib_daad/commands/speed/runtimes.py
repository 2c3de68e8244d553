# SPDX-License-Identifier: Apache-2.0

"""Runtimes that inference is timed in: PyTorch, onnxruntime, and OpenVINO at several precisions."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from anomalib_daad.components.network import AnomalyNetwork
from anomalib_daad.training.quantization import quantize

if TYPE_CHECKING:
    import openvino

_CONVERTED: WeakKeyDictionary[nn.Module, tuple[torch.Size, Any]] = WeakKeyDictionary()  # conversion takes long
RUNTIMES = ("torch", "onnx", "openvino-f32", "openvino", "openvino-int8")


def check(runtimes: list[str], device: str) -> None:
    """Refuse a runtime or a device that is not there, in one sentence.

    Args:
        runtimes (list[str]): Names of runtimes.
        device (str): ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: If a name is unknown, or what it needs is missing.
    """
    unknown = [runtime for runtime in runtimes if runtime not in RUNTIMES]
    if unknown:
        msg = f"Unknown runtime {', '.join(unknown)}; choose among {', '.join(RUNTIMES)}."
        raise ValueError(msg)
    if device not in {"cpu", "cuda"}:
        msg = f"Unknown device {device}; choose cpu or cuda."
        raise ValueError(msg)
    if device == "cuda" and not torch.cuda.is_available():
        msg = "PyTorch finds no CUDA device here; use --device cpu, or install a CUDA build and a driver."
        raise ValueError(msg)
    if any(runtime != "torch" for runtime in runtimes):
        try:
            import nncf  # noqa: F401
            import onnxruntime  # noqa: F401
            import openvino  # noqa: F401
        except ImportError as error:
            msg = f"{error.name} is not installed, which the other runtimes than torch need: pip install "
            msg += '"anomalib-daad[openvino]", or leave them out with --runtimes torch.'
            raise ValueError(msg) from error


class _Outputs(nn.Module):
    """The model with plain tensors for results."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = self.model(images)
        return tuple(value for value in (batch.pred_score, batch.anomaly_map) if value is not None)


def to_onnx(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Export a model to a file.

    Args:
        model (nn.Module): Model in evaluation mode.
        images (torch.Tensor): Images of the size and batch size to export for, shape ``(B, 3, H, W)``.
        path (Path): File to write.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    outputs = _Outputs(model).eval()
    torch.onnx.export(outputs, (images,), str(path), dynamo=True, opset_version=18, verbose=False)


def to_openvino(model: nn.Module, images: torch.Tensor) -> "openvino.Model":
    """Convert as anomalib does, through ONNX.

    Args:
        model (nn.Module): Model in evaluation mode.
        images (torch.Tensor): Images of the size and batch size to convert for, shape ``(B, 3, H, W)``.

    Returns:
        openvino.Model: Converted model.
    """
    import openvino

    shape, converted = _CONVERTED.get(model, (None, None))
    if shape != images.shape:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            to_onnx(model, images, path)
            converted = openvino.convert_model(path)
        _CONVERTED[model] = images.shape, converted
    return converted


def to_int8(model: nn.Module, converted: "openvino.Model", images: torch.Tensor) -> "openvino.Model":
    """Quantise: our models as their export does, all others as NNCF does by default.

    Args:
        model (nn.Module): The model that was converted.
        converted (openvino.Model): Converted model.
        images (torch.Tensor): Images to calibrate on, shape ``(B, 3, H, W)``.

    Returns:
        openvino.Model: Quantised model.
    """
    import nncf

    dataset = nncf.Dataset([images.numpy()] * 2)
    if isinstance(model, AnomalyNetwork):
        return quantize(converted, dataset, model.num_scales)
    return nncf.quantize(converted, dataset)


def load(runtime: str, model: nn.Module, images: torch.Tensor, device: str = "cpu") -> Callable[[], object]:
    """Prepare a call of a model in a runtime.

    Args:
        runtime (str): One of ``RUNTIMES``. ``"openvino"`` computes at OpenVINO's default precision, which is bfloat16
            where the processor has it.
        model (nn.Module): Model in evaluation mode.
        images (torch.Tensor): Images to call it with, shape ``(B, 3, H, W)``.
        device (str): ``"cpu"`` or ``"cuda"``, of PyTorch. Defaults to ``"cpu"``.

    Returns:
        Callable[[], object]: The call.
    """
    if runtime == "torch":
        model, images = model.to(device), images.to(device)
        return torch.inference_mode()(lambda: model(images))
    if runtime == "onnx":
        return _load_onnx(model, images)
    request, array = compile_openvino(runtime, model, images).create_infer_request(), images.numpy()
    return lambda: request.infer([array])


def _load_onnx(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(model, images, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, inputs)


def compile_openvino(runtime: str, model: nn.Module, images: torch.Tensor, **config: str) -> "openvino.CompiledModel":
    """Convert and compile a model for the CPU.

    Args:
        runtime (str): One of ``RUNTIMES``, of OpenVINO's.
        model (nn.Module): Model in evaluation mode.
        images (torch.Tensor): Images of the size and batch size to compile for, shape ``(B, 3, H, W)``.
        config (str): Further properties of OpenVINO.

    Returns:
        openvino.CompiledModel: Compiled model.
    """
    import openvino

    converted = to_openvino(model, images)
    if runtime == "openvino-int8":
        converted = to_int8(model, converted, images)
    if runtime == "openvino-f32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    return openvino.compile_model(converted, "CPU", {"PERFORMANCE_HINT": "LATENCY", **config})

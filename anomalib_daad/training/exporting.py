# SPDX-License-Identifier: Apache-2.0

"""Exports of a network that is rewritten for inference."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule
from torch import nn

from anomalib_daad.components.encoder_decoder import UpConvolution
from anomalib_daad.components.inference import for_inference

from .export_description import write_description
from .lightning_internals import Module
from .quantization import quantize

if TYPE_CHECKING:
    import openvino


@contextmanager
def _without_logs_of(*names: str) -> Iterator[None]:
    """Keep what exporters say of each of a thousand operations out of the log, but for warnings."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _files(path: Path, companion: str) -> list[Path]:
    """Files of an export: its own, and the one that weights may lie in."""
    return [file for file in (path, path.with_suffix(companion)) if file.exists()]


def _input_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int] | None:
    """Input size among the arguments of anomalib's exports, whose third it is."""
    return args[2] if len(args) > 2 else kwargs.get("input_size")


class RewrittenExports(Module):
    """Exports what :func:`for_inference` makes of the network.

    Attributes:
        model (Any): The network.
    """

    model: Any

    def inference_model(self) -> nn.Module:
        """Network that is exported.

        Returns:
            nn.Module: The network in evaluation mode, with the same scores from fewer operations.
        """
        return for_inference(self.model)

    @contextmanager
    def _rewritten_for_inference(self) -> Iterator[None]:
        trained = self.model
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights before they are given trained ones
            self.model = self.inference_model()
        try:
            yield
        finally:
            self.model = trained

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export for :class:`anomalib.deploy.TorchInferencer`.

        Args:
            args: As anomalib's ``to_torch``.
            kwargs: As anomalib's ``to_torch``.

        Returns:
            Path: Path to the exported model.
        """
        with self._rewritten_for_inference():
            path = super().to_torch(*args, **kwargs)
        write_description(self, [path], None)
        return path

    def to_onnx(  # type: ignore[override]
        self, *args: Any, opset_version: int = 18, external_data: bool = False, **kwargs: Any
    ) -> Path:
        """Export to ONNX.

        Args:
            args: As anomalib's ``to_onnx``.
            opset_version (int): Operator set. Defaults to ``18``: PyTorch's exporter writes it, and prints a
                traceback when it then fails to convert to anomalib's default of 14.
            external_data (bool): Write the weights to a file of their own, which must travel with the model; models
                above 2 GB need it. Defaults to ``False``.
            kwargs: As anomalib's ``to_onnx``.

        Returns:
            Path: Path to the exported model.
        """
        self.eval()
        with self._rewritten_for_inference(), _without_logs_of("onnx_ir", "onnxscript"):
            self.model = copy.deepcopy(self.model)
            for module in self.model.modules():
                if isinstance(module, UpConvolution):
                    module.fix_kernel()
            path = super().to_onnx(*args, opset_version=opset_version, external_data=external_data, **kwargs)
        write_description(self, _files(path, ".onnx.data"), _input_size(args, kwargs))
        return path

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Export to OpenVINO.

        Args:
            args: As anomalib's ``to_openvino``.
            kwargs: As anomalib's ``to_openvino``.

        Returns:
            Path: Path to the exported model.
        """
        path = super().to_openvino(*args, **kwargs)
        write_description(self, _files(path, ".bin"), _input_size(args, kwargs))
        return path

    def _post_training_quantization_ov(  # type: ignore[override]  # needs the number of scales
        self, model: "openvino.Model", datamodule: AnomalibDataModule | None = None
    ) -> "openvino.Model":
        """Quantise all but the encoder and the memories."""
        if datamodule is None:
            msg = "INT8_PTQ needs images to calibrate on: give a datamodule, on the command line with --data."
            raise ValueError(msg)
        datamodule.setup("fit")
        import nncf

        images = nncf.Dataset(datamodule.val_dataloader(), lambda batch: batch.image)
        return quantize(model, images, self.model.num_scales)

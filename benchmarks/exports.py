# SPDX-License-Identifier: Apache-2.0

"""Compare the exports of a checkpoint with Engine.predict: scores, image AUROC and size.

Example:
    python benchmarks/exports.py --model DaadRestoration --checkpoint model.ckpt --category bottle --output exports.csv
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from anomalib.data import MVTecAD
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from sklearn.metrics import roc_auc_score

import anomalib_daad
from anomalib_daad.commands.shared.output_folder import write_table


class _GoodImages(CalibrationDataReader):
    """Thirty-two training images, one at a time."""

    def __init__(self, category: Path) -> None:
        self.paths = iter(sorted((category / "train" / "good").iterdir())[:32])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Read the next image."""
        path = next(self.paths, None)
        return None if path is None else {"input": read_image(path, as_tensor=True)[None].numpy()}


def main() -> None:
    """Write one row for every runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DaadRestoration", help="class of the package")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALIB_DAAD_DATA", "datasets"), "MVTecAD"))
    parser.add_argument("--category", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["TRUST_REMOTE_CODE"] = "1"
    folder = tempfile.mkdtemp()
    datamodule = MVTecAD(arguments.root, arguments.category, num_workers=0)
    model = getattr(anomalib_daad, arguments.model).load_from_checkpoint(arguments.checkpoint)
    engine = Engine(accelerator="cpu", default_root_dir=folder, enable_progress_bar=False)
    expected = {
        path: float(score)
        for batch in engine.predict(model, datamodule=datamodule)
        for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }
    images = {path: read_image(path, as_tensor=True)[None] for path in expected}
    labels = [Path(path).parent.name != "good" for path in expected]
    reference = np.array(list(expected.values()))

    def openvino(compression: str | None, precision: str) -> tuple[Callable, Path]:
        path = engine.export(
            model,
            "openvino",
            export_root=f"{folder}/{compression}",
            compression_type=CompressionType(compression) if compression else None,
            datamodule=datamodule,
        )
        inferencer = OpenVINOInferencer(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        return lambda image: inferencer.predict(image).pred_score, path.with_suffix(".bin")

    def torch_inferencer() -> tuple[Callable, Path]:
        path = engine.export(model, "torch", export_root=folder)
        inferencer = TorchInferencer(path, "cpu")
        return lambda image: inferencer.predict(image).pred_score, path

    def onnx(quantize: Callable[[Path, Path], None] | None = None) -> tuple[Callable, Path]:
        path = engine.export(model, "onnx", export_root=folder)
        if quantize:
            quantize(path, path.with_name("quantized.onnx"))
            path = path.with_name("quantized.onnx")
        session = onnxruntime.InferenceSession(str(path))
        name = session.get_inputs()[0].name
        return lambda image: session.run(["pred_score"], {name: image.numpy()})[0], path

    def dynamic(source: Path, target: Path) -> None:
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)

    def static(source: Path, target: Path) -> None:
        quantize_static(source, target, _GoodImages(arguments.root / arguments.category))

    def convolutions(source: Path, target: Path) -> None:
        images = _GoodImages(arguments.root / arguments.category)
        quantize_static(source, target, images, op_types_to_quantize=["Conv"])

    runtimes: dict[str, Callable[[], tuple[Callable, Path]]] = {
        "TorchInferencer": torch_inferencer,
        "onnxruntime": onnx,
        "onnxruntime, quantize_dynamic": lambda: onnx(dynamic),
        "onnxruntime, quantize_static": lambda: onnx(static),
        "onnxruntime, quantize_static, Conv alone": lambda: onnx(convolutions),
        "OpenVINO, f32": lambda: openvino(None, "f32"),
        "OpenVINO, bf16": lambda: openvino(None, "bf16"),
        "OpenVINO fp16 weights, f32": lambda: openvino("fp16", "f32"),
        "OpenVINO int8 weights, f32": lambda: openvino("int8", "f32"),
        "OpenVINO int8_ptq, f32": lambda: openvino("int8_ptq", "f32"),
    }
    rows = []
    flip_at = 0.5  # anomalib's threshold of normalised scores
    for runtime, export in runtimes.items():
        score, path = export()
        scores = [float(np.asarray(score(image)).squeeze()) for image in images.values()]
        rows.append(
            {
                "runtime": runtime,
                "largest_difference": f"{np.abs(np.array(scores) - reference).max():.1e}",
                "flipped_verdicts": int(((np.array(scores) > flip_at) != (reference > flip_at)).sum()),
                "images": len(scores),
                "image_auroc": round(roc_auc_score(labels, scores), 4),
                "engine_image_auroc": round(roc_auc_score(labels, reference), 4),
                "size_mb": round(path.stat().st_size / 1e6, 1),
            }
        )
        print(rows[-1], flush=True)
    write_table(rows, arguments.output)


if __name__ == "__main__":
    main()

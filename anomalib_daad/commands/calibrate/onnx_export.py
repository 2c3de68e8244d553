# SPDX-License-Identifier: Apache-2.0

"""The scales of an ONNX export. Without PyTorch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from .linear_scale import MAP, SCORE, VERDICTS, Outputs, Scale, added_names, one_of


class OnnxExport:
    """An ONNX export whose scores can be scaled anew.

    Args:
        path (Path): File.

    Attributes:
        limits (dict[str, float]): Scores above which its verdict is defective, of score and map.

    Raises:
        ValueError: If it cannot be read, or is no export of this package.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.model = onnx.load(str(path))
        except Exception as error:  # protobuf's are no family
            msg = f"it is no ONNX file that can be read: {error}"
            raise ValueError(msg) from error
        self.has_companion = path.with_suffix(".onnx.data").exists()
        self._producers = {output: node for node in self.model.graph.node for output in node.output}
        self._constants = {it.name: it for it in self.model.graph.initializer}
        self._clips = {name: self._find_clip(name) for name in (SCORE, MAP)}
        self.limits = {name: self._limit(VERDICTS[name]) for name in (SCORE, MAP)}
        self._session: onnxruntime.InferenceSession | None = None

    def run(self, pixels: np.ndarray) -> Outputs:
        """Judge an image.

        Args:
            pixels (np.ndarray): Shape ``(1, 3, H, W)``, float32, in [0, 1].

        Returns:
            Outputs: What the export says, and what it clips.
        """
        if self._session is None:
            self._session = self._open()
        linear = [clip.input[0] for clip in self._clips.values()]
        score, label, map_, *unclipped = self._session.run(
            [SCORE, VERDICTS[SCORE], MAP, *linear], {self._session.get_inputs()[0].name: pixels}
        )
        return Outputs(float(score.item()), float(unclipped[0].item()), unclipped[1], map_, bool(label.item()))

    def rescale(self, scales: dict[str, Scale]) -> None:
        """Scale score and map anew.

        Args:
            scales (dict[str, Scale]): How, by the names of the outputs.
        """
        for name, scale in scales.items():
            clip, names = self._clips[name], added_names(name)
            if all(it in self._constants for it in names):
                first = Scale(*(float(numpy_helper.to_array(self._constants[it])) for it in names))
                values: Scale = scale.after(first)
            else:
                values = scale
                self._insert(clip, names)
            for constant, value in zip(names, values, strict=True):
                array = numpy_helper.from_array(np.array(value, np.float32), constant)
                self._constants[constant].CopyFrom(array)

    def save(self, path: Path) -> list[Path]:
        """Write it.

        Args:
            path (Path): File to write.

        Returns:
            list[Path]: The file, and the one that weights lie in where they did.
        """
        if not self.has_companion:
            onnx.save_model(self.model, str(path))
            return [path]
        companion = path.with_suffix(".onnx.data")
        onnx.save_model(self.model, str(path), save_as_external_data=True, location=companion.name)
        return [path, companion]

    def _insert(self, clip: onnx.NodeProto, names: list[str]) -> None:
        graph, source = self.model.graph, clip.input[0]
        steps = [f"{name}_applied" for name in names]
        place = list(graph.node).index(clip)
        graph.node.insert(place, helper.make_node("Mul", [source, names[0]], [steps[0]], steps[0]))
        graph.node.insert(place + 1, helper.make_node("Add", [steps[0], names[1]], [steps[1]], steps[1]))
        clip.input[0] = steps[1]
        for name in names:
            graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), name))
            self._constants[name] = graph.initializer[-1]

    def _open(self) -> onnxruntime.InferenceSession:
        measuring = onnx.ModelProto()
        measuring.CopyFrom(self.model)
        for clip in self._clips.values():
            measuring.graph.output.append(onnx.ValueInfoProto(name=clip.input[0]))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(measuring.SerializeToString(), options, ["CPUExecutionProvider"])

    def _find_clip(self, output: str) -> onnx.NodeProto:
        """Find what clips an output: between them nothing but choices is expected."""
        found, waiting = [], [output]
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is not None and node.op_type == "Clip":
                found.append(node)
            elif node is not None and node.op_type == "Where":
                waiting += node.input[1:]
        return one_of(found, f"operations that clip {output}")

    def _limit(self, output: str) -> float:
        node = self._producers.get(output)
        inputs = [] if node is None or node.op_type != "Greater" else [node.input[1]]
        limits = [numpy_helper.to_array(self._constants[it]) for it in inputs if it in self._constants]
        return float(one_of(limits, f"thresholds that decide on {output}").item())

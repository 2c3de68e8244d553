# SPDX-License-Identifier: Apache-2.0

"""The scales of an OpenVINO export. Without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

from .linear_scale import MAP, SCORE, VERDICTS, Outputs, Scale, added_names, one_of

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's default moves scores on processors with bfloat16


class OpenvinoExport:
    """An OpenVINO export whose scores can be scaled anew.

    Args:
        path (Path): File, ``.xml``, with its weights beside it.

    Attributes:
        limits (dict[str, float]): Scores above which its verdict is defective, of score and map.

    Raises:
        ValueError: If it cannot be read, or is no export of this package.
    """

    def __init__(self, path: Path) -> None:
        self._core = openvino.Core()
        try:
            self.model = self._core.read_model(path)
        except RuntimeError as error:
            msg = f"it is no OpenVINO model that can be read: {' '.join(str(error).split())[:300]}"
            raise ValueError(msg) from error
        self._outputs = {name: port.get_node() for port in self.model.outputs for name in port.get_names()}
        self._clamps = {name: self._find_clamp(name) for name in (SCORE, MAP)}
        self.limits = {name: self._limit(VERDICTS[name]) for name in (SCORE, MAP)}
        self._compiled: Any = None

    def run(self, pixels: np.ndarray) -> Outputs:
        """Judge an image.

        Args:
            pixels (np.ndarray): Shape ``(1, 3, H, W)``, float32, in [0, 1].

        Returns:
            Outputs: What the export says, and what it clips.
        """
        if self._compiled is None:
            measuring = self.model.clone()
            nodes = {node.get_friendly_name(): node for node in measuring.get_ordered_ops()}
            clamps = [nodes[clamp.get_friendly_name()] for clamp in self._clamps.values()]
            measuring.add_outputs([clamp.input_value(0) for clamp in clamps])
            self._compiled = self._core.compile_model(measuring, "CPU", F32)
        found = self._compiled([pixels])
        count = len(self._compiled.outputs)
        linear_score, linear_map = found[count - 2], found[count - 1]
        return Outputs(
            float(found[SCORE].item()),
            float(linear_score.item()),
            linear_map,
            found[MAP],
            bool(found[VERDICTS[SCORE]].item()),
        )

    def rescale(self, scales: dict[str, Scale]) -> None:
        """Scale score and map anew.

        Args:
            scales (dict[str, Scale]): How, by the names of the outputs.
        """
        for name, scale in scales.items():
            clamp, names = self._clamps[name], added_names(name)
            source, values = clamp.input_value(0), scale
            if source.get_node().get_friendly_name() == names[1]:
                add = source.get_node()
                multiply = add.input_value(0).get_node()
                source = multiply.input_value(0)
                first = Scale(*(_constant(node.input_value(1)) for node in (multiply, add)))
                values = scale.after(first)
            factor, offset = (operations.constant(np.array(value, np.float32)) for value in values)
            multiply = operations.multiply(source, factor, name=names[0])
            clamp.input(0).replace_source_output(operations.add(multiply, offset, name=names[1]).output(0))
        self._compiled = None

    def save(self, path: Path) -> list[Path]:
        """Write it.

        Args:
            path (Path): File to write.

        Returns:
            list[Path]: The file, and the one that weights lie in.
        """
        openvino.save_model(self.model, str(path), compress_to_fp16=False)  # what is in 16 bits stays so
        return [path, path.with_suffix(".bin")]

    def _find_clamp(self, output: str) -> Any:
        """Find what clips an output: between them nothing but choices is expected."""
        found: list[Any] = []
        waiting = [self._outputs[output]] if output in self._outputs else []
        while waiting:
            node = waiting.pop()
            kind = node.get_type_name()
            if kind == "Clamp":
                found.append(node)
            elif kind == "Result":
                waiting.append(node.input_value(0).get_node())
            elif kind == "Select":
                waiting += [node.input_value(index).get_node() for index in (1, 2)]
        return one_of(found, f"operations that clip {output}")

    def _limit(self, output: str) -> float:
        results = [self._outputs[output]] if output in self._outputs else []
        nodes = [result.input_value(0).get_node() for result in results]
        limits = [_constant(node.input_value(1)) for node in nodes if node.get_type_name() == "Greater"]
        return float(one_of([it for it in limits if it is not None], f"thresholds that decide on {output}"))


def _constant(port: Any) -> Any:
    """Value of a constant, also of one that is stored in 16 bits; None of anything else."""
    node = port.get_node()
    node = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    return float(node.get_data().item()) if node.get_type_name() == "Constant" else None

# SPDX-License-Identifier: Apache-2.0

"""Judge 8-bit images with an ONNX export; needs onnxruntime, NumPy and Pillow alone.

Usage: ``python judge_onnx.py exported/weights/onnx/model.onnx part.png ...``
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main(model: Path, images: list[Path]) -> None:
    """Print what the export says of each image."""
    known = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    if known["format"] != 1:
        sys.exit(f"{model.stem}.json is of a format that this program does not know: take the program of its version.")
    for name, digest in known["sha256"].items():
        if sha256(model.with_name(name).read_bytes()).hexdigest() != digest:
            sys.exit(f"{name} is not the file that {model.stem}.json describes: copy all files of one export.")
    if not known["raw"] or None in (known["raw"]["image_threshold"], known["raw"]["image_range"]):
        sys.exit("The export knows no threshold: export a model whose training validated good images.")
    session = onnxruntime.InferenceSession(model)
    names = [output.name for output in session.get_outputs()]
    print("file", "score", "p_value", "verdict", "x", "y", "raw_score", sep="\t")
    for path in images:
        image = read(path, known["input"])
        found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: image}), strict=True))
        score = found["pred_score"].item()
        verdict = "defective" if found["pred_label"].item() else "good"
        strongest = np.unravel_index(found["anomaly_map"].argmax(), found["anomaly_map"].shape)[-2:]
        sizes = zip(strongest, image.shape[-2:], found["anomaly_map"].shape[-2:], strict=True)
        y, x = (int((place + 0.5) * pixels / cells) for place, pixels, cells in sizes)
        print(path, f"{score:.6f}\t{p_value(score, known):.4f}", verdict, x, y, f"{raw(score, known):.6f}", sep="\t")


def read(path: Path, expected: dict) -> np.ndarray:
    """Read an image as the export takes it, shape ``(1, 3, H, W)`` in [0, 1]."""
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            sys.exit(f"{path} has more than 8 bits a pixel: divide its pixels by the camera's white yourself.")
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    if expected["height"] and pixels.shape[:2] != (expected["height"], expected["width"]):
        sys.exit(f"{path} is not of {expected['width']} x {expected['height']} pixels, which the export is fixed to.")
    return pixels.transpose(2, 0, 1)[None]


def p_value(score: float, known: dict) -> float:
    """Share of good images that look at least as odd; NaN where the export knows none."""
    good = known["good_scores"]
    return (1 + sum(it >= score for it in good)) / (1 + len(good)) if good else float("nan")


def raw(score: float, known: dict) -> float:
    """Score that the network gave, which a score of 0 or 1 only bounds."""
    return known["raw"]["image_threshold"] + (score - 0.5) * known["raw"]["image_range"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(it) for it in sys.argv[2:]])

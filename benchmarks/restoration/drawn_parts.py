# SPDX-License-Identifier: Apache-2.0

"""Draw five categories in MVTec AD's layout: parts unlike those that the preset was developed on.

A nut that lies turned any way, a wire grid, a pill with red specks on black ground, a woven cloth; 200 good images to
train on, 40 good ones and 80 defective ones of three kinds to test on, 256x256 pixels. And a sheet of 1024x1024 pixels
with defects of 4 to 12 pixels; 60 to train on, 20 and 30 to test on. They are drawings: what a model misses on them is
worth a look, what it finds proves nothing.

Example:
    python benchmarks/restoration/drawn_parts.py --output datasets/drawn
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

SIZE = 256
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(float)
LARGE = 1024
NUMBERS = {SIZE: (200, 40, 80), LARGE: (60, 20, 30)}  # to train on, good ones and defective ones to test on


class Drawing(NamedTuple):
    """BGR image, shape ``(H, W, 3)``, in [0, 255]; mask, shape ``(H, W)``, 0 or 255; kind of defect."""

    image: np.ndarray
    mask: np.ndarray
    kind: str | None


def noise(rng: Generator, sigma: float | tuple[float, float], deviation: float, size: int = SIZE) -> np.ndarray:
    """Smooth noise, shape ``(size, size)``."""
    smooth = gaussian_filter(rng.normal(size=(size, size)), sigma)
    return deviation * smooth / smooth.std()


def wander(rng: Generator, start: tuple[int, int], points: int, turn: float, drift: float) -> np.ndarray:
    """Corners of a line that wanders off."""
    steps = rng.uniform(-turn, turn, (points, 2)) + rng.uniform(-drift, drift, 2)
    return np.cumsum(np.vstack([start, steps]), 0).round().astype(int)


def nut(rng: Generator, defective: bool) -> Drawing:
    """A hexagonal nut of brushed metal, turned any way."""
    image = np.full((SIZE, SIZE, 3), 210.0) + noise(rng, 40, 6)[..., None] + rng.normal(0, 3, (SIZE, SIZE, 3))
    turn = rng.uniform(0, 2 * np.pi)
    center = np.array([128 + rng.uniform(-8, 8), 128 + rng.uniform(-8, 8)])
    angles = turn + np.arange(6) * np.pi / 3
    corners = (center + 85 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).round().astype(int)
    hexagon = cv2.fillPoly(np.zeros((SIZE, SIZE), np.uint8), [corners], 255) > 0
    distance = np.hypot(COLUMNS - center[0], ROWS - center[1])
    metal = hexagon & (distance > 35)
    brushed = noise(rng, (1, 6), 5) + 20 * np.cos(6 * (np.arctan2(ROWS - center[1], COLUMNS - center[0]) - turn))
    image[metal] = (np.array([120, 110, 100.0]) + brushed[..., None])[metal]
    thread = metal & (distance < 42)
    image[thread] = (np.array([80, 70, 60.0]) + 15 * np.sin(distance * 1.5)[..., None])[thread]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if not defective:
        return Drawing(image, mask, None)
    kind = str(rng.choice(["scratch", "dent", "stain"]))
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(48, 68)
    place = (int(center[0] + radius * np.cos(angle)), int(center[1] + radius * np.sin(angle)))
    if kind == "scratch":
        end = (int(place[0] + rng.uniform(-30, 30)), int(place[1] + rng.uniform(-30, 30)))
        cv2.line(mask, place, end, 255, int(rng.integers(1, 4)))
        image[mask > 0] += rng.choice([-1, 1]) * rng.uniform(30, 60)
    elif kind == "dent":
        cv2.circle(mask, tuple(corners[rng.integers(6)].tolist()), int(rng.integers(8, 18)), 255, -1)
        mask[~hexagon] = 0
        image[mask > 0] = 208
    else:
        cv2.ellipse(mask, place, (int(rng.integers(5, 14)), int(rng.integers(5, 14))), 0, 0, 360, 255, -1)
        mask[~metal] = 0
        image[mask > 0] += rng.uniform(25, 50, 3) * rng.choice([-1, 1], 3)
    return Drawing(image, mask, kind)


def grid(rng: Generator, defective: bool) -> Drawing:
    """A grid of wires that lies anywhere."""
    ground = 60 + noise(rng, 50, 8)
    phase = rng.uniform(0, 24, 2)
    wave = noise(rng, 30, 0.8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    kind, place = None, (0.0, 0.0)
    if defective:
        kind = str(rng.choice(["broken", "bent", "dirt"]))
        place = tuple(rng.uniform(50, 206, 2))
    columns, rows = COLUMNS + wave, ROWS + wave.T
    if kind == "bent":
        bend = np.exp(-((COLUMNS - place[0]) ** 2 + (ROWS - place[1]) ** 2) / (2 * 12**2))
        columns, rows = columns + 6 * bend, rows + 6 * bend
        mask[bend > 0.3] = 255
    upright = np.clip(4 - np.abs((columns + phase[0]) % 24 - 12), 0, 1.5)
    level = np.clip(4 - np.abs((rows + phase[1]) % 24 - 12), 0, 1.5)
    wires = np.maximum(upright, level)
    if kind == "broken":
        wire = ((place[0] + phase[0]) // 24) * 24 + 12 - phase[0]
        corners = (int(wire - 5), int(place[1] - 6)), (int(wire + 5), int(place[1] + 6))
        cv2.rectangle(mask, *corners, 255, -1)
        wires = np.where(mask > 0, level, wires)
    grey = ground + 70 * wires
    if kind == "dirt":
        cv2.circle(mask, (int(place[0]), int(place[1])), int(rng.integers(4, 11)), 255, -1)
        grey[mask > 0] = rng.choice([40, 190])
    return Drawing(grey[..., None].repeat(3, axis=2) + rng.normal(0, 4, (SIZE, SIZE, 1)), mask, kind)


def pill(rng: Generator, defective: bool) -> Drawing:
    """A white pill with red specks on black ground."""
    image = np.full((SIZE, SIZE, 3), 30.0) + rng.normal(0, 3, (SIZE, SIZE, 3))
    center = (128 + int(rng.integers(-4, 5)), 128 + int(rng.integers(-4, 5)))
    shape = cv2.ellipse(np.zeros((SIZE, SIZE), np.uint8), center, (100, 60), 0, 0, 360, 255, -1)
    inside = shape > 0
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    image[inside] = (np.array([215, 215, 205.0]) * (0.75 + 0.25 * np.clip(depth / 25, 0, 1))[..., None])[inside]
    for _ in range(rng.integers(25, 45)):
        place = (int(rng.uniform(30, 226)), int(rng.uniform(70, 186)))
        speck = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), place, int(rng.integers(1, 4)), 255, -1) > 0
        image[speck & inside] += np.array([-60, -60, -10]) * rng.uniform(0.5, 1.2)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    kind = None
    if defective:
        kind = str(rng.choice(["crack", "colour", "chip"]))
        place = (int(rng.uniform(60, 196)), int(rng.uniform(95, 160)))
        if kind == "crack":
            cv2.polylines(mask, [wander(rng, place, 6, 9, 6)], False, 255, int(rng.integers(1, 3)))
            mask[~inside] = 0
            image[mask > 0] -= rng.uniform(50, 90)
        elif kind == "colour":
            axes = (int(rng.integers(6, 16)), int(rng.integers(4, 10)))
            cv2.ellipse(mask, place, axes, rng.uniform(0, 180), 0, 360, 255, -1)
            mask[~inside] = 0
            image[mask > 0] *= np.array([0.75, 0.95, 1.0])
        else:
            angle = rng.uniform(0, 2 * np.pi)
            edge = (int(center[0] + 100 * np.cos(angle)), int(center[1] + 60 * np.sin(angle)))
            cv2.circle(mask, edge, int(rng.integers(6, 16)), 255, -1)
            mask[~inside] = 0
            image[mask > 0] = 35
    return Drawing(cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 2, (SIZE, SIZE, 3)), mask, kind)


def cloth(rng: Generator, defective: bool) -> Drawing:
    """A woven cloth with a period of seven pixels."""
    phase = rng.uniform(0, 9, 2)
    wave = noise(rng, 25, 1.2)
    over = np.sign(np.sin(2 * np.pi * (ROWS + phase[1] + wave) / 14))
    weave = 25 * np.sin(2 * np.pi * (COLUMNS + phase[0] + wave) / 7) * over
    weave += 12 * np.sin(2 * np.pi * (ROWS + phase[1]) / 7)
    grey = weave + noise(rng, 1, 8) + noise(rng, 60, 6)
    image = np.array([90, 110, 140.0]) + grey[..., None]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if not defective:
        return Drawing(image, mask, None)
    kind = str(rng.choice(["thread", "hole", "fold"]))
    place = tuple(int(v) for v in rng.uniform(40, 216, 2))
    if kind == "thread":
        cv2.polylines(mask, [wander(rng, place, 5, 14, 8)], False, 255, 2)
        image[mask > 0] = rng.uniform(150, 230, 3)
    elif kind == "hole":
        cv2.ellipse(mask, place, (int(rng.integers(4, 10)), int(rng.integers(4, 10))), 0, 0, 360, 255, -1)
        image[mask > 0] = rng.uniform(15, 40)
    else:
        axes = (int(rng.integers(15, 28)), int(rng.integers(6, 12)))
        cv2.ellipse(mask, place, axes, rng.uniform(0, 180), 0, 360, 255, -1)
        image = np.where(mask[..., None] > 0, image.transpose(1, 0, 2), image)
    return Drawing(image, mask, kind)


def sheet(rng: Generator, defective: bool) -> Drawing:
    """A large woven sheet with grain, with one small defect."""
    rows, columns = np.mgrid[:LARGE, :LARGE] + rng.uniform(0, 28, 2)[:, None, None]
    wave = noise(rng, 40, 2, LARGE)
    weave = 18 * np.sin(2 * np.pi * (columns + wave) / 14) * np.sign(np.sin(2 * np.pi * (rows + wave) / 28))
    ground = 128 + noise(rng, 60, 8, LARGE) + noise(rng, 1, 8, LARGE)
    grey = ground + weave
    mask = np.zeros((LARGE, LARGE), np.uint8)
    kind = None
    if defective:
        kind = str(rng.choice(["spot", "scratch", "gap"]))
        place = rng.uniform(16, LARGE - 16, 2)
        center, length, angle = place.astype(int).tolist(), rng.uniform(4, 12), rng.uniform(0, np.pi)
        if kind == "scratch":
            along = length / 2 * np.array([np.cos(angle), np.sin(angle)])
            ends = [(place + side * along).astype(int).tolist() for side in (-1, 1)]
            cv2.line(mask, *ends, 255, 2)
        else:
            cv2.circle(mask, center, max(2, round(length / 2)), 255, -1)
        changed = ground if kind == "gap" else grey + rng.choice([-1, 1]) * rng.uniform(25, 60)
        grey = np.where(mask > 0, changed, grey)
    return Drawing(grey[..., None].repeat(3, axis=2) + rng.normal(0, 3, (LARGE, LARGE, 1)), mask, kind)


PARTS: dict[str, Callable[[Generator, bool], Drawing]] = {
    "nut": nut,
    "grid": grid,
    "pill": pill,
    "cloth": cloth,
    "sheet": sheet,
}


def save(image: np.ndarray, path: Path) -> None:
    """Write an image and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))


def main() -> None:
    """Write the categories."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    arguments = parser.parse_args()
    for seed, (name, draw) in enumerate(PARTS.items(), start=100):
        if name not in arguments.only:
            continue
        output, rng = arguments.output / name, np.random.default_rng(seed)
        num_train, num_good, num_defective = NUMBERS[LARGE if name == "sheet" else SIZE]
        for folder, count in (("train/good", num_train), ("test/good", num_good)):
            for index in range(count):
                save(draw(rng, False).image, output / folder / f"{index:03d}.png")
        for index in range(num_defective):
            image, mask, kind = draw(rng, True)
            if mask.any():
                save(image, output / f"test/{kind}" / f"{index:03d}.png")
                save(mask, output / f"ground_truth/{kind}" / f"{index:03d}_mask.png")


if __name__ == "__main__":
    main()

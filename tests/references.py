# SPDX-License-Identifier: Apache-2.0

"""Drawn images, and independent definitions that several tests hold the networks against."""

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate


def draw(count: int = 8, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """Smooth coloured images in [-1, 1]."""
    return interpolate(torch.randn(count, 3, 5, 5), size, mode="bicubic").tanh()


def draw_rough(count: int = 3, height: int = 48, width: int = 80) -> torch.Tensor:
    """Coloured images with fine detail, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    rough = interpolate(torch.randn(count, 3, 6, 10, generator=generator), (height, width), mode="bicubic")
    return (0.4 * rough + 0.2 * torch.randn(count, 3, height, width, generator=generator)).clamp(-1, 1)


def with_detail(count: int = 4, size: int = 32) -> torch.Tensor:
    """Images with a fourth channel as detail has it, positive."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 4, size, size, generator=generator) * torch.tensor([2.0, 2.0, 2.0, 0.3])[:, None, None]
    return images - torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None]


def resize(channel: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear and, where it gets smaller, antialiased, by Pillow."""
    return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def detail_by_pillow(image: np.ndarray, factor: int) -> np.ndarray:
    """``(3, H, W)`` made smaller, with the root mean square of what that takes away for a fourth channel."""
    height, width = image.shape[1:]
    small, lost = [], 0.0
    for channel in image:
        small.append(resize(channel, width // factor, height // factor))
        lost = lost + (channel - resize(small[-1], width, height)) ** 2 / 3
    return np.stack([*small, np.sqrt(resize(lost, width // factor, height // factor))])


def structure_by_definition(first: np.ndarray, second: np.ndarray, scales: int = 4) -> np.ndarray:
    """1 - GMS of grey values in [0, 1], gradients by SciPy's Prewitt filter, averaged over scales."""
    size, total = first.shape, 0.0
    for _ in range(scales):
        g, h = (np.hypot(*(ndimage.prewitt(x, axis, mode="nearest") / 3 for axis in (0, 1))) for x in (first, second))
        difference = torch.from_numpy(1 - (2 * g * h + 0.0026) / (g**2 + h**2 + 0.0026))[None, None]
        total = total + interpolate(difference, size, mode="bilinear")[0, 0].numpy() / scales
        first, second = (x.reshape(len(x) // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (first, second))
    return total


def standardize_by_loop(maps: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Standardise maps ``(n, H, W)`` by those of good images: scipy in place of kornia, all images at once."""
    return standardize_by_statistics(maps, good.mean(0), good.var(0))


def standardize_by_statistics(maps: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The same by the mean and the variance of each pixel."""
    blurred = [ndimage.gaussian_filter(statistic, 1.0, mode="nearest", radius=4) for statistic in (mean, variance)]
    typical = np.sqrt(blurred[1].mean())
    return np.stack([2 * (one - blurred[0]) / (np.sqrt(blurred[1]) + typical) for one in maps])


def moved_by_loop(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """``(C, H, W)`` moved down and to the right, pixel by pixel."""
    moved = np.empty_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            source = min(max(row - rows, 0), height - 1), min(max(column - columns, 0), width - 1)
            moved[:, row, column] = image[:, source[0], source[1]]
    return moved


def turned_by_scipy(image: np.ndarray, degrees: float) -> np.ndarray:
    """``(C, H, W)`` turned counter-clockwise about its centre, with its borders repeated."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[cosine, sine], [-sine, cosine]])  # of rows and columns, rows count downwards
    center = (np.array(image.shape[1:]) - 1) / 2
    return np.stack(
        [ndimage.affine_transform(it, turn, center - turn @ center, order=1, mode="nearest") for it in image]
    )


def restored_by_definition(network, seen: np.ndarray) -> np.ndarray:
    """What the autoencoder makes of ``(4, h, w)`` at a mean of 0 and a deviation of 0.4, of colours and of detail."""
    mean, scale = np.zeros((4, 1, 1)), np.zeros((4, 1, 1))
    for channels, smallest in ((slice(0, 3), 0.02), (slice(3, 4), 0.01)):
        mean[channels], scale[channels] = seen[channels].mean(), max(seen[channels].std(), smallest) / 0.4
    equal = torch.from_numpy((seen - mean) / scale).float()[None]
    with torch.no_grad():
        return network.autoencoder(equal)[0].double().numpy() * scale + mean


def judged_by_definition(
    network, image: torch.Tensor, rows: int = 0, columns: int = 0
) -> tuple[list[np.ndarray], float, float]:
    """Walk one image ``(3, H, W)`` through a restoration network, moved by whole pixels of what the networks see.

    Only the autoencoder and the comparison are the network's own. The maps of structure, detail, comparison, error and
    colour, standardised and moved back; R(x) and L(x).
    """
    seen = detail_by_pillow(image.double().numpy(), image.shape[1] // placed_height(network))
    seen = moved_by_loop(seen, rows, columns).astype(np.float64)
    restored = restored_by_definition(network, seen)
    grey = [(x[:3].mean(axis=0) + 1) / 2 for x in (seen, restored)]
    contrast = max(seen[3].std(), 0.01)
    detail = [(x[3] - seen[3].mean()) / contrast * 0.4 / 2 for x in (seen, restored)]
    error = np.abs(seen - restored)
    relative = error[:3].mean(axis=0) / max(seen[:3].std(), 0.02) + error[3] / contrast
    colours = (seen - restored)[:3] / max(seen[:3].std(), 0.02)
    colour = np.abs(colours - colours.mean(axis=0)).mean(axis=0)
    both = [torch.from_numpy(x).float()[None] for x in (seen, restored)]
    with torch.no_grad():
        defects = network.comparison(*both)[0, 0].double().numpy()
    found = [structure_by_definition(*grey), structure_by_definition(*detail), defects, relative, colour]
    sigma = 0.75 / 64 * min(seen.shape[1:])
    maps = []
    for index, one in enumerate(found):
        blurred = ndimage.gaussian_filter(one, sigma, mode="nearest", radius=int(np.ceil(4 * sigma)))
        statistics = [
            getattr(network.standardization, f"running_{name}")[0, index].double().numpy() for name in ("mean", "var")
        ]
        standardized = standardize_by_statistics(blurred[None], *statistics)
        maps.append(moved_by_loop(standardized, -rows, -columns)[0])
    structure, of_detail, comparison, error_map, colour_map = maps
    strongest = [float(one.max()) for one in (structure, of_detail, error_map, colour_map)]
    return maps, sum(strongest) / 4, float(comparison.max())


def placed_height(network) -> int:
    """Height of what the networks see."""
    return network.standardization.running_mean.shape[2]

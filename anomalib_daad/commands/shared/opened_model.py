# SPDX-License-Identifier: Apache-2.0

"""A trained model that is opened to be changed by good images, and saved in the form that it had."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import InferenceBatch

from anomalib_daad.registration import Model
from anomalib_daad.safetensors_file import save_safetensors
from anomalib_daad.training.checkpoint_file import WholeCheckpointIO
from anomalib_daad.training.conformal_threshold import Rates, grid, headroom
from anomalib_daad.training.false_alarms import FalseAlarmPostProcessor
from anomalib_daad.training.run_checks import refuse_untrained

from .trained_model import load_trained

Follow = Callable[[Iterable[Any], str], Iterable[Any]]


class Images(NamedTuple):
    """Good images that are read when they are needed.

    Attributes:
        files (Sequence[Path]): Files.
        read (Callable[[Path], np.ndarray]): Reads one, RGB in [0, 1], shape ``(H, W, 3)``.
    """

    files: Sequence[Path]
    read: Callable[[Path], np.ndarray]


class Judged(NamedTuple):
    """What a network says of images.

    Attributes:
        scores (torch.Tensor): Score of each, shape ``(n,)``.
        pixels (torch.Tensor): Some pixels of each map, shape ``(n, P)``.
        ends (torch.Tensor): Smallest and largest pixel of each map, shape ``(n, 2)``.
    """

    scores: torch.Tensor
    pixels: torch.Tensor
    ends: torch.Tensor


class OpenedModel:
    """A trained model of this package.

    Args:
        path (Path): Checkpoint or safetensors file.

    Raises:
        ValueError: If it is none, or was never trained.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: Model = load_trained(path)
        refuse_untrained(self.model.model, type(self.model).__name__)

    def save(self, path: Path) -> list[Path]:
        """Write the model as it is now, in the form that it had.

        Args:
            path (Path): File to write.

        Returns:
            list[Path]: The file.
        """
        if self.path.suffix == ".safetensors":
            return [save_safetensors(self.model, path)]
        content = WholeCheckpointIO().load_checkpoint(self.path, map_location="cpu")
        before, now = content["state_dict"], self.model.state_dict()
        # What an earlier version did not write says so by not being there.
        kept = {key: now[key].cpu() for key in now if key in before or key.startswith("post_processor.")}
        post_processor: Any = self.model.post_processor
        content |= {"state_dict": before | kept, "anomalib_post_processor_config": post_processor.checkpoint_config()}
        content["anomalib_components_enabled"]["post_processor"] = True
        WholeCheckpointIO().save_checkpoint(content, path)
        return [path]

    @property
    def threshold(self) -> float | None:
        """The model's threshold, of scores as the network gives them; None without one."""
        post_processor: Any = self.model.post_processor
        found = float("nan") if post_processor is None else float(getattr(post_processor, "image_threshold", "nan"))
        return found if np.isfinite(found) and post_processor.enable_thresholding else None

    def reject(self, scores: torch.Tensor) -> torch.Tensor:
        """Tell which images the model's threshold rejects.

        Args:
            scores (torch.Tensor): Scores as the network gives them, shape ``(n,)``.

        Returns:
            torch.Tensor: True for each that it rejects, none without a threshold, same shape.
        """
        if self.threshold is None:
            return torch.zeros_like(scores, dtype=torch.bool)
        post_processor: Any = self.model.post_processor
        return post_processor(InferenceBatch(pred_score=scores.to(self.model.device))).pred_label.bool().cpu()

    @torch.no_grad()
    def judge(self, files: Iterable[Path], images: Images) -> Judged:
        """Judge images; those whose scores are not finite are left out.

        Args:
            files (Iterable[Path]): Their files.
            images (Images): Reads them.

        Returns:
            Judged: Scores and pixels.

        Raises:
            ValueError: If no score is finite.
        """
        scores, pixels, ends = [], [], []
        for file in files:
            found = self.model.model(self.pixels(file, images))
            if found.pred_score.isfinite().all():
                scores.append(found.pred_score.flatten().float().cpu())
                pixels.append(grid(found.anomaly_map.float()).cpu())
                ends.append(torch.stack(found.anomaly_map.float().aminmax())[None].cpu())
        if not scores:
            msg = "None of the good images can be judged: their scores are not finite."
            raise ValueError(msg)
        return Judged(torch.cat(scores), torch.cat(pixels), torch.cat(ends))

    def pixels(self, file: Path, images: Images) -> torch.Tensor:
        """Read an image as the network takes it.

        Args:
            file (Path): File.
            images (Images): Reads it.

        Returns:
            torch.Tensor: Shape ``(1, 3, H, W)``.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(images.read(file).transpose(2, 0, 1)))
        pre_processor: Any = self.model.pre_processor
        return pre_processor(pixels[None].to(self.model.device))

    def take_thresholds(self, judged: Judged, rates: Rates, never_lower: bool = False) -> None:
        """Take thresholds and the ranges of what is shown from good images.

        Args:
            judged (Judged): What the network says of them.
            rates (Rates): What may be rejected.
            never_lower (bool): Keep a threshold that is higher. Defaults to ``False``.
        """
        old: Any = self.model.post_processor
        post_processor = FalseAlarmPostProcessor(
            rates.images, rates.pixels, enable_normalization=getattr(old, "enable_normalization", True)
        ).to(self.model.device)
        post_processor.learn(judged.scores, judged.pixels)
        if never_lower and self.threshold is not None:
            post_processor.raise_to(float(old.image_threshold), float(old.pixel_threshold))
        lows = {"image": judged.scores.min(), "pixel": judged.ends[:, 0].min()}
        for kind, low in lows.items():
            width = torch.tensor(0.0)
            if old is not None and hasattr(old, f"{kind}_max"):
                width = (getattr(old, f"{kind}_max") - getattr(old, f"{kind}_min")).nan_to_num(0.0).cpu()
            high = headroom(low, getattr(post_processor, f"{kind}_threshold").cpu())
            getattr(post_processor, f"{kind}_min").copy_(low)
            getattr(post_processor, f"{kind}_max").copy_(torch.maximum(low + width, high))
        self.model.post_processor = post_processor

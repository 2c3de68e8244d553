# SPDX-License-Identifier: Apache-2.0

"""Statistics, ranges and thresholds of a trained model, taken anew from good images."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import InferenceBatch

from anomalib_daad.commands.shared.trained_model import load_trained
from anomalib_daad.registration import Model
from anomalib_daad.safetensors_file import save_safetensors
from anomalib_daad.training.checkpoint_file import WholeCheckpointIO
from anomalib_daad.training.conformal_threshold import grid, headroom
from anomalib_daad.training.false_alarms import FalseAlarmPostProcessor
from anomalib_daad.training.run_checks import refuse_untrained

from .outcome import Outcome, Rates

FOR_STATISTICS = 20  # good images at least; from ten, an image AUROC of 0.993 fell by up to 0.009
MOST_FOR_STATISTICS = 300  # as many as training remembers
FOLDS = 10  # of few images


class Images(NamedTuple):
    """Good images that are read when they are needed.

    Attributes:
        files (Sequence[Path]): Files.
        read (Callable[[Path], np.ndarray]): Reads one, RGB in [0, 1], shape ``(H, W, 3)``.
    """

    files: Sequence[Path]
    read: Callable[[Path], np.ndarray]


class _Judged(NamedTuple):
    """Scores, some pixels of the maps, and the smallest and the largest pixel of each, of images."""

    scores: torch.Tensor
    pixels: torch.Tensor
    ends: torch.Tensor


class TrainedModel:
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

    @torch.no_grad()
    def calibrate(
        self, images: Images, rates: Rates, follow: Callable[[Iterable[Path], str], Iterable[Path]]
    ) -> Outcome:
        """Take statistics, ranges and thresholds from good images.

        No image that a threshold is from has a part in the statistics that judge it: it would score lower than new
        good images do. Of 40 images and more every second one is for statistics and ranges, the others are for the
        threshold, whose promise then holds exactly. Of 20 to 39, each tenth is scored by the statistics of the other
        nine, and the model keeps those of all: their scores are those of new images but for the influence of a tenth of
        the statistics, with which new images are judged a little better, so that the promise holds nearly, on the safe
        side. Fewer than 20 give thresholds alone: statistics of so few say too little of each place.

        Args:
            images (Images): Good images.
            rates (Rates): What may be rejected.
            follow (Callable[[Iterable[Path], str], Iterable[Path]]): Shows how far it has come.

        Returns:
            Outcome: What is told of it.
        """
        files, network = list(images.files), self.model.model
        before, rejected = self._rejected(files, images, follow)
        known, deciding = _split(files)

        def judge(some: Sequence[Path], what: str) -> _Judged:
            return self._judge(follow(some, what), images)

        if known:
            observed = torch.cat([network.observe(self._pixels(it, images)) for it in follow(known, "Learning")])
        if known is deciding:
            fold = torch.arange(len(files)) % FOLDS
            parts = []
            for number in fold.unique():
                network.relearn(observed[fold.to(observed.device) != number])
                parts.append(judge([it for it, own in zip(files, fold, strict=True) if own == number], "Judging"))
            judged = _Judged(*(torch.cat(values) for values in zip(*parts, strict=True)))
        if known:
            network.relearn(observed)
        if known is not deciding:
            judged = judge(deciding, "Judging")
        self._take_thresholds(judged, rates)
        post_processor: Any = self.model.post_processor
        count = int(post_processor.good_images)
        return Outcome(before, float(post_processor.image_threshold), rejected, count, len(known))

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

    def _rejected(self, files: list[Path], images: Images, follow: Any) -> tuple[float | None, int | None]:
        """The threshold that was, and how many of the images are rejected by it."""
        post_processor: Any = self.model.post_processor
        before = float("nan") if post_processor is None else float(getattr(post_processor, "image_threshold", "nan"))
        if not (post_processor is not None and post_processor.enable_thresholding and np.isfinite(before)):
            return None, None
        scores = self._judge(follow(files, "Judging as before"), images).scores.to(self.model.device)
        return before, int(post_processor(InferenceBatch(pred_score=scores)).pred_label.sum())

    def _judge(self, files: Iterable[Path], images: Images) -> _Judged:
        scores, pixels, ends = [], [], []
        for file in files:
            found = self.model.model(self._pixels(file, images))
            if found.pred_score.isfinite().all():
                scores.append(found.pred_score.flatten().float().cpu())
                pixels.append(grid(found.anomaly_map.float()).cpu())
                ends.append(torch.stack(found.anomaly_map.float().aminmax())[None].cpu())
        if not scores:
            msg = "None of the good images can be judged: their scores are not finite."
            raise ValueError(msg)
        return _Judged(torch.cat(scores), torch.cat(pixels), torch.cat(ends))

    def _pixels(self, file: Path, images: Images) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images.read(file).transpose(2, 0, 1)))
        pre_processor: Any = self.model.pre_processor
        return pre_processor(pixels[None].to(self.model.device))

    def _take_thresholds(self, judged: _Judged, rates: Rates) -> None:
        old: Any = self.model.post_processor
        post_processor = FalseAlarmPostProcessor(
            rates.images, rates.pixels, enable_normalization=getattr(old, "enable_normalization", True)
        ).to(self.model.device)
        post_processor.learn(judged.scores, judged.pixels)
        lows = {"image": judged.scores.min(), "pixel": judged.ends[:, 0].min()}
        for kind, low in lows.items():
            width = torch.tensor(0.0)
            if old is not None and hasattr(old, f"{kind}_max"):
                width = (getattr(old, f"{kind}_max") - getattr(old, f"{kind}_min")).nan_to_num(0.0).cpu()
            high = headroom(low, getattr(post_processor, f"{kind}_threshold").cpu())
            getattr(post_processor, f"{kind}_min").copy_(low)
            getattr(post_processor, f"{kind}_max").copy_(torch.maximum(low + width, high))
        self.model.post_processor = post_processor


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Images for statistics and images for the threshold; the same list twice where all are for both."""
    if len(files) < FOR_STATISTICS:
        return [], files
    if len(files) < 2 * FOR_STATISTICS:
        return files, files
    known = files[::2][:MOST_FOR_STATISTICS]
    return known, sorted(set(files) - set(known))

# SPDX-License-Identifier: Apache-2.0

"""Statistics, ranges and thresholds of a trained model, taken anew from good images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anomalib_daad.commands.shared.opened_model import Follow, Images, Judged, OpenedModel
from anomalib_daad.training.conformal_threshold import Rates

from .outcome import Outcome

FOR_STATISTICS = 20  # good images at least; from ten, an image AUROC of 0.993 fell by up to 0.009
MOST_FOR_STATISTICS = 300  # as many as training remembers
FOLDS = 10  # of few images


class TrainedModel(OpenedModel):
    """A trained model of this package, to be calibrated."""

    @torch.no_grad()
    def calibrate(self, images: Images, rates: Rates, follow: Follow) -> Outcome:
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
            follow (Follow): Shows how far it has come.

        Returns:
            Outcome: What is told of it.
        """
        files, network = list(images.files), self.model.model
        before, rejected = self.threshold, None
        if before is not None:
            rejected = int(self.reject(self.judge(follow(files, "Judging as before"), images).scores).sum())
        known, deciding = _split(files)

        def judge(some: Sequence[Path], what: str) -> Judged:
            return self.judge(follow(some, what), images)

        if known:
            observed = torch.cat([network.observe(self.pixels(it, images)) for it in follow(known, "Learning")])
        if known is deciding:
            fold = torch.arange(len(files)) % FOLDS
            parts = []
            for number in fold.unique():
                network.relearn(observed[fold.to(observed.device) != number])
                parts.append(judge([it for it, own in zip(files, fold, strict=True) if own == number], "Judging"))
            judged = Judged(*(torch.cat(values) for values in zip(*parts, strict=True)))
        if known:
            network.relearn(observed)
        if known is not deciding:
            judged = judge(deciding, "Judging")
        self.take_thresholds(judged, rates)
        post_processor: Any = self.model.post_processor
        count = int(post_processor.good_images)
        return Outcome(before, float(post_processor.image_threshold), rejected, count, len(known))


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Images for statistics and images for the threshold; the same list twice where all are for both."""
    if len(files) < FOR_STATISTICS:
        return [], files
    if len(files) < 2 * FOR_STATISTICS:
        return files, files
    known = files[::2][:MOST_FOR_STATISTICS]
    return known, sorted(set(files) - set(known))

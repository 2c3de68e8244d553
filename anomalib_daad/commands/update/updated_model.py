# SPDX-License-Identifier: Apache-2.0

"""A trained DaadRestoration that goes on training on good images of a new kind."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from anomalib_daad.commands.shared.opened_model import Follow, Images, Judged, OpenedModel
from anomalib_daad.models.daad_restoration import DaadRestoration
from anomalib_daad.models.daad_restoration.further_training import (
    RATE,
    RATE_ALONE,
    STEPS,
    as_if_old,
    carry_ranges,
    draw_batches,
    standardize_by_both,
    train_further,
)
from anomalib_daad.training.conformal_threshold import Rates
from anomalib_daad.training.randomness import seeded

MOST_LEARNT = 300  # images of each kind that are trained on, as many as a training's statistics remember
MOST_OLD = 2 * MOST_LEARNT
ENOUGH = 10  # images that tell how scores change
KEPT_BYTES = 2e9  # of images that are read once


class Kind(NamedTuple):
    """Good images of one kind, in two halves.

    Attributes:
        learnt (list[Path]): Those that are trained on.
        unseen (list[Path]): Those that are not.
    """

    learnt: list[Path]
    unseen: list[Path]

    @classmethod
    def of(cls, files: Sequence[Path]) -> "Kind":
        """Halve files; of more than 600 the first half is of 300.

        Args:
            files (Sequence[Path]): Files, at least two.

        Returns:
            Kind: Every second file to train on, the others not.
        """
        learnt = list(files[::2][:MOST_LEARNT])
        return cls(learnt, sorted(set(files) - set(learnt)))


class Rejected(NamedTuple):
    """How many images are rejected.

    Attributes:
        before (int): By the model that was; none where it had no threshold.
        after (int): By the model that is.
        judged (int): Of so many.
    """

    before: int
    after: int
    judged: int


class Outcome(NamedTuple):
    """What an update found.

    Attributes:
        before (float | None): The threshold that was; None without one.
        after (float): The threshold that is, of scores by the statistics of both kinds.
        deciding (int): Images of the new kind that were not trained on, which the new threshold is from.
        new (Rejected): Of the images of the new kind.
        old (Rejected | None): Of the images of the old kind that were not trained on now; None without any.
        odd (list[Path]): Images of the new kind that still score above the threshold that was, the oddest first.
    """

    before: float | None
    after: float
    deciding: int
    new: Rejected
    old: Rejected | None
    odd: list[Path]


class UpdatedModel(OpenedModel):
    """A trained DaadRestoration, to be trained further.

    Args:
        path (Path): Checkpoint or safetensors file.

    Raises:
        ValueError: If it is none, is of another model, or was never trained.
    """

    model: DaadRestoration

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        name = type(self.model).__name__
        if name != DaadRestoration.__name__:
            msg = f"it holds a {name}, and only a DaadRestoration is trained further: train a {name} anew with all "
            msg += "good images."
            raise ValueError(msg)

    def update(self, new: Images, old: Sequence[Path], rates: Rates, seed: int, follow: Follow) -> Outcome:
        """Train on half of the new images, and take thresholds from the other half.

        Statistics of both kinds allow for more than those of one, so that scores become smaller. The ranges of the
        scores follow, so that old images score as before: the threshold that was still rejects as many of them. How
        much smaller is told by old images that are not trained on, or by maps of new ones that get the statistics of
        the old kind. Fewer than ten of them say too little, and the ranges stay.

        Args:
            new (Images): Good images of the new kind, four at least.
            old (Sequence[Path]): Good images of the old kind, none or four at least; of many, some.
            rates (Rates): What may be rejected.
            seed (int): Makes the training repeatable.
            follow (Follow): Shows how far it has come.

        Returns:
            Outcome: What is told of it.

        Raises:
            ValueError: If a loss or a score is not finite.
        """
        kinds = {"new": Kind.of(new.files), "old": Kind.of(old[:: -(-len(old) // MOST_OLD) or 1])}
        judged_files = {"new": [*kinds["new"].learnt, *kinds["new"].unseen], "old": kinds["old"].unseen}

        def judge_all(what: str) -> dict[str, Judged]:
            return {key: self._judge_all(files, new, follow, what) for key, files in judged_files.items() if files}

        threshold = self.threshold
        before = {key: int(self.reject(it.scores).sum()) for key, it in judge_all("Judging as before").items()}
        self._train(kinds["new"].learnt, kinds["old"], new, seed, follow)
        after = judge_all("Judging")
        count = len(kinds["new"].learnt)
        deciding = Judged(*(values[count:] for values in after["new"]))
        self.take_thresholds(deciding, rates, never_lower=True)
        rejected = {
            key: Rejected(before[key], int(self.reject(it.scores).sum()), len(it.scores)) for key, it in after.items()
        }
        post_processor: Any = self.model.post_processor
        now, scores = float(post_processor.image_threshold), after["new"].scores
        limit = now if threshold is None else threshold
        odd = [judged_files["new"][int(it)] for it in scores.argsort(descending=True) if scores[it] > limit]
        return Outcome(threshold, now, len(deciding.scores), rejected["new"], rejected.get("old"), odd)

    def _train(self, new: list[Path], old: Kind, images: Images, seed: int, follow: Follow) -> None:
        """Train on, and let maps and ranges follow."""
        network: Any = self.model.model
        size = self.pixels(new[0], images).nbytes

        @functools.lru_cache(maxsize=max(1, int(KEPT_BYTES // size)))
        def read(file: Path) -> torch.Tensor:
            return self.pixels(file, images)

        @torch.no_grad()
        def observe(files: list[Path]) -> torch.Tensor:
            return torch.cat([network.observe(read(file)) for file in follow(files, "Learning")])

        known, before = network.standardization.statistics, None
        if len(old.unseen) >= ENOUGH:
            before = network.score_observed(observe(old.unseen))
        with seeded(seed):
            batches = draw_batches(new, old.learnt, read, follow(range(STEPS), "Training"))
            train_further(self.model, batches, RATE if old.learnt else RATE_ALONE)
        maps = observe(new)
        if old.learnt:
            network.learn_usual(observe(old.learnt))
            known = network.standardization.statistics
            maps_of_old = observe(old.unseen)
        else:
            maps_of_old = as_if_old(network, maps, known)
            before = network.score_observed(maps_of_old) if len(new) >= ENOUGH else None
        standardize_by_both(network, maps, known)
        if before is not None:
            carry_ranges(network, before, network.score_observed(maps_of_old))

    def _judge_all(self, files: list[Path], images: Images, follow: Follow, what: str) -> Judged:
        judged = self.judge(follow(files, what), images)
        if len(judged.scores) < len(files):
            msg = "the scores of some of the images are not finite: train it again."
            raise ValueError(msg)
        return judged

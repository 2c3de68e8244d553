# SPDX-License-Identifier: Apache-2.0

"""A threshold from good images alone, with a promise: how many good images it rejects.

Example:
    >>> import torch
    >>> post_processor = FalseAlarmPostProcessor(false_alarm_rate=0.1)
    >>> post_processor.learn(torch.arange(1.0, 20.0), torch.arange(1000.0))
    >>> post_processor.image_threshold, post_processor.promised_rate
    (tensor(18.0170), 0.1)
    >>> post_processor.p_value(torch.tensor([0.0, 18.0, 30.0]))
    tensor([1.0000, 0.1500, 0.0500])
"""

import logging
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer

from . import conformal_threshold
from .conformal_threshold import MOST_SCORES, grid, headroom, images_for, refuse_other_rates
from .distributed import gather

logger = logging.getLogger(__name__)


class FalseAlarmPostProcessor(PostProcessor):
    """Thresholds that reject a given share of good images, learnt from the good images of a validation.

    The threshold is just above the k-th smallest of the scores of n good images that were not trained on, with
    ``k = n + 1 - floor((n + 1) a)`` for a rate ``a``, n at most (split conformal prediction). If the next good image is
    exchangeable with them it scores above the threshold with a probability of at most ``max(a, 1 / (n + 1))``, on
    average over all such sets: fewer than ``1 / a - 1`` images cannot promise a, and the log says what they can.
    Pixels have the threshold that a share of the good images' pixels exceeds; of pixels of further good images at most
    that share and ``1 / (n + 1)`` do, on average.

    A validation without a good image gives no thresholds, and a warning says so. anomalib's ``PostProcessor`` in this
    one's place takes those of the best F1 on good and defective images.

    Args:
        false_alarm_rate (float): Share of good images that may be rejected, in (0, 1). Defaults to ``0.01``.
        pixel_false_alarm_rate (float): Share of good images' pixels that may be marked, in (0, 1). Defaults to
            ``0.001``.
        kwargs: As anomalib's ``PostProcessor``.

    Attributes:
        good_scores (torch.Tensor): Scores of good images in rising order, at most 1000 that stand for all of them, then
            NaN; shape ``(1000,)``.
        good_images (torch.Tensor): How many good images the thresholds are from, of no dimension.

    Raises:
        ValueError: If a rate is not in (0, 1).
    """

    good_scores: torch.Tensor
    good_images: torch.Tensor

    def __init__(self, false_alarm_rate: float = 0.01, pixel_false_alarm_rate: float = 0.001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        refuse_other_rates(false_alarm_rate=false_alarm_rate, pixel_false_alarm_rate=pixel_false_alarm_rate)
        self.false_alarm_rate = false_alarm_rate
        self.pixel_false_alarm_rate = pixel_false_alarm_rate
        self.register_buffer("good_scores", torch.full((MOST_SCORES,), torch.nan))
        self.register_buffer("good_images", torch.tensor(0))
        self._scores: list[torch.Tensor] = []
        self._pixels: list[torch.Tensor] = []
        self._has_defects = False

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "false_alarm_rate", "pixel_false_alarm_rate")

    @property
    def promised_rate(self) -> float:
        """Share of good images that the threshold rejects at most, on average; NaN where it is not from good ones."""
        return conformal_threshold.promised_rate(int(self.good_images), self.false_alarm_rate)

    def p_value(self, scores: torch.Tensor) -> torch.Tensor:
        """Tell how odd images are among good ones.

        Args:
            scores (torch.Tensor): Scores as the network gives them, not normalised, shape ``(B,)``.

        Returns:
            torch.Tensor: Share of good images that look at least as odd, in (0, 1], shape ``(B,)``; where the threshold
            is not from good images, NaN.
        """
        kept = self.good_scores[self.good_scores.isfinite()]
        odder = (kept >= scores[:, None]).sum(dim=1)
        return torch.where(self.good_images > 0, (1 + odder) / (1 + len(kept)), torch.nan)

    def normalize_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Scale scores as those of images are scaled.

        Args:
            scores (torch.Tensor): Scores as the network gives them, shape ``(B,)``.

        Returns:
            torch.Tensor: In [0, 1] with the threshold at 0.5, shape ``(B,)``; as they are without normalisation.
        """
        normalized = self._normalize(scores, self.image_min, self.image_max, self.image_threshold)
        return normalized if self.enable_normalization and normalized is not None else scores

    @torch.no_grad()
    def learn(self, scores: torch.Tensor, pixels: torch.Tensor | None = None) -> None:
        """Take the thresholds from good images that were not trained on.

        Args:
            scores (torch.Tensor): Their scores, as the network gives them, shape ``(n,)``; those that are not finite
                are left out.
            pixels (torch.Tensor | None): Values of their maps, of any shape; ``None`` for a network without maps.
                Defaults to ``None``.

        Raises:
            ValueError: If no score is finite.
        """
        ordered = scores[scores.isfinite()].float().sort().values.cpu().numpy()
        if not len(ordered):
            msg = "There is no good image to take a threshold from: give some that were not trained on."
            raise ValueError(msg)
        self._image_threshold.fill_(float(conformal_threshold.threshold(ordered, self.false_alarm_rate)))
        kept = torch.from_numpy(conformal_threshold.representatives(ordered))
        self.good_scores.fill_(torch.nan)[: len(kept)] = kept.to(self.good_scores.device)
        self.good_images.fill_(len(ordered))
        values = torch.empty(0) if pixels is None else pixels[pixels.isfinite()]
        if values.numel():
            found = conformal_threshold.pixel_threshold(values.float().cpu().numpy(), self.pixel_false_alarm_rate)
            self._pixel_threshold.fill_(float(found))

    @torch.no_grad()
    def raise_to(self, image_threshold: float, pixel_threshold: float) -> None:
        """Raise thresholds that are lower, which keeps all the more what they promise.

        Args:
            image_threshold (float): Threshold of images at least; NaN for any.
            pixel_threshold (float): The same of pixels.
        """
        for own, least in ((self._image_threshold, image_threshold), (self._pixel_threshold, pixel_threshold)):
            own.copy_(torch.fmax(own, torch.full_like(own, least)))

    def on_validation_batch_end(  # type: ignore[override]  # as anomalib's
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the scores of good images.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
            outputs (Batch): Batch with scores and maps.
            args: As anomalib's.
            kwargs: As anomalib's.
        """
        del trainer, pl_module, args, kwargs
        if self.enable_normalization:
            self._image_min_max_metric.update(outputs)
            self._pixel_min_max_metric.update(outputs)
        if not self.enable_thresholding or outputs.gt_label is None or outputs.pred_score is None:
            return
        good = outputs.gt_label == 0
        self._has_defects |= bool((~good).any())
        self._scores.append(outputs.pred_score[good].detach().float())
        if outputs.anomaly_map is not None:
            self._pixels.append(grid(outputs.anomaly_map[good].detach().float()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take thresholds and ranges.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
        """
        super().on_validation_epoch_end(trainer, pl_module)
        scores, pixels, has_defects = self._scores, self._pixels, self._has_defects
        self._scores, self._pixels, self._has_defects = [], [], False
        if not self.enable_thresholding or not scores:
            return
        good = gather(torch.cat(scores))
        values = gather(torch.cat(pixels)) if pixels else None
        has_defects = bool(gather(torch.tensor([has_defects], device=good.device)).any())
        if not good.isfinite().any():
            logger.warning(
                "The validation has no good image that can be judged, and so gives no threshold: hold out some good "
                "images, for example with the datamodule's val_split_mode from_test or from_train."
            )
            return
        self.learn(good, values)
        if not has_defects:  # the scores of defects are not known to end where those of good images do
            _widen(self.image_max, self.image_min, self.image_threshold)
            _widen(self.pixel_max, self.pixel_min, self.pixel_threshold)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what a validation by itself promises.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
        """
        del pl_module
        if trainer.validating:
            self._tell(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the training's last validation promises.

        Args:
            trainer (Trainer): Trainer.
            pl_module (LightningModule): Model.
        """
        del pl_module
        self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        """Say what the threshold promises: a fact of every training, and no fault."""
        count = int(self.good_images)
        if not trainer.is_global_zero or not count:
            return
        needed = images_for(self.false_alarm_rate)
        wanting = f", not {self.false_alarm_rate:.4g}, which takes {needed}" if count < needed else ""
        logger.info(
            "The threshold is from %d good images that were held out: at most %.3g of good images are rejected%s.",
            count,
            self.promised_rate,
            wanting,
        )


def _widen(high: torch.Tensor, low: torch.Tensor, threshold: torch.Tensor) -> None:
    high.copy_(torch.fmax(high, headroom(low, threshold)))

# SPDX-License-Identifier: Apache-2.0

"""What anomalib puts around a model where the user names nothing else: processors, measures, pictures, callbacks."""

from collections.abc import Sequence
from typing import Any

from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_daad.data.folder_check import check_folders

from . import evaluation
from .false_alarms import FalseAlarmPostProcessor
from .good_images_alone import GoodImagesAlone
from .image_cache import ImageCache
from .judgement_pictures import JudgementVisualizer
from .pre_processor import AntialiasPreProcessor
from .randomness import KeepRandomState
from .time_left import TimeLeft
from .training_bar import TrainingBar


class DefaultComponents:
    """The answers of this package's models to anomalib's questions for components."""

    _trainer: Any  # Lightning's
    trainer: Any

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: resize, then scale [0, 1] to [-1, 1].

        Args:
            image_size (tuple[int, int] | None): Height and width. Defaults to ``None``, 256x256.

        Returns:
            PreProcessor: Pre-processor that exports with the same antialiased resize.
        """
        size = tuple(image_size or (256, 256))
        return AntialiasPreProcessor(Compose([Resize(size, antialias=True), Normalize([0.5] * 3, [0.5] * 3)]))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure anomalib's measures of a test, and image and pixel AUROC of a validation.

        Returns:
            Evaluator: Evaluator.
        """
        return evaluation.configure_evaluator()

    def configure_post_processor(self) -> FalseAlarmPostProcessor:
        """Configure the default post-processor.

        Returns:
            FalseAlarmPostProcessor: Thresholds that reject 1 of 100 good images.
        """
        return FalseAlarmPostProcessor()

    @classmethod
    def configure_visualizer(cls) -> JudgementVisualizer:
        """Configure pictures of tests and predictions.

        Returns:
            JudgementVisualizer: Visualizer.
        """
        return JudgementVisualizer()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add what a training has beside steps, such as an image cache and one progress bar, where there is none yet.

        Returns:
            Sequence[Callback]: Callbacks.

        Raises:
            ValueError: If the folders of the data do not hold what they should.
        """
        if self._trainer is not None:
            check_folders(getattr(self.trainer, "datamodule", None))  # what follows would download or read
        callbacks = [*super().configure_callbacks()]  # type: ignore[misc]  # a list
        others = [] if self._trainer is None else self.trainer.callbacks
        kinds = (ImageCache, KeepRandomState, TimeLeft, TrainingBar)
        ours = [kind() for kind in kinds if not any(isinstance(it, kind) for it in others)]
        return [*callbacks, *ours, GoodImagesAlone()]  # after the post-processor, which gives the verdicts it counts

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that must hold: calibration rules out sanity checks."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """All models of this package learn from good images alone."""
        return LearningType.ONE_CLASS

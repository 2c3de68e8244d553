# SPDX-License-Identifier: Apache-2.0

"""What the networks of all detectors do alike: judge images in full precision, and explain themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn.functional import interpolate

from .block_memory import MemoryRead
from .finite_input import flag_not_finite
from .fused_score import FusedScore, Scores
from .image_size import check_images, count_scales
from .precision import full_precision


class Judgement(NamedTuple):
    """What a network says of images.

    Attributes:
        scores (Scores): The two parts of the score, each of shape ``(B,)``.
        anomaly_map (torch.Tensor): Shape ``(B, 1, h, w)``, of the images' size or of what the network sees of them.
    """

    scores: Scores
    anomaly_map: torch.Tensor


class Explanation(NamedTuple):
    """What a network saw in images and expected in its place.

    Attributes:
        seen (torch.Tensor): The images as the network sees them, in [-1, 1], shape ``(B, 3, h, w)``.
        expected (torch.Tensor): What it expected there, about in [-1, 1], same shape.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
    """

    seen: torch.Tensor
    expected: torch.Tensor
    reads: list[MemoryRead]


class Wording(NamedTuple):
    """How a detector's pictures are captioned.

    Attributes:
        reconstruction (str): What R(x) is.
        alignment (str): What L(x) is, or what stands in its place; of the same construction.
        anomaly_map (str): What the anomaly map holds. Defaults to ``"the blurred squared error"``.
        made (str): What became of an image, ``"rebuilt"`` or ``"restored"``. Defaults to ``"rebuilt"``.
    """

    reconstruction: str
    alignment: str
    anomaly_map: str = "the blurred squared error"
    made: str = "rebuilt"


class AnomalyNetwork(nn.Module):
    """Network that reconstructs images and scores what differs, by two parts that are fused.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        gamma (float): Weight of R(x) in the fused score (eq. 7), in [0, 1].

    Attributes:
        image_size (tuple[int, int]): Height and width of the images.
        num_scales (int): Scales of its autoencoder.
        score (FusedScore): The fused score, with the ranges of its parts.
        wording (Wording): How its pictures are captioned.
        ignored (torch.Tensor | None): Pixels that do not count, boolean, shape ``(1, 1, H, W)``; None for none.

    Raises:
        ValueError: If gamma is out of range.
    """

    wording: Wording

    def __init__(self, image_size: tuple[int, int], gamma: float) -> None:
        super().__init__()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.num_scales = count_scales(self.image_size)
        self.score = FusedScore(gamma)
        self.ignored: torch.Tensor | None
        self.register_buffer("ignored", None)

    def forward(self, images: torch.Tensor) -> Any:
        """Reconstruct and judge images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Any: In training what the losses need; in evaluation an :class:`InferenceBatch` of the fused score, shape
            ``(B,)``, and the anomaly map, shape ``(B, 1, H, W)``, without gradient.

        Raises:
            ValueError: If the images do not have the size that the network was built for.
        """
        self.check(images)
        images = self.cover(images)
        if self.training:
            return self.reconstruct_for_losses(images)
        if torch.compiler.is_compiling():
            return self._infer(images)
        with torch.no_grad(), full_precision(images):
            return self._infer(images)

    def check(self, images: torch.Tensor) -> None:
        """Refuse images that the network cannot judge.

        Args:
            images (torch.Tensor): Images, which should have shape ``(B, 3, H, W)``.

        Raises:
            ValueError: If they are of another kind, size or type.
        """
        check_images(images, (3, *self.image_size), next(self.parameters()).dtype)

    def cover(self, images: torch.Tensor) -> torch.Tensor:
        """Paint grey what does not count.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: The images, without what lies in the ignored region.
        """
        return images if self.ignored is None else images.masked_fill(self.ignored, 0.0)

    def reconstruct_for_losses(self, images: torch.Tensor) -> Any:
        """Reconstruct images for training.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Any: What the losses need.
        """
        raise NotImplementedError

    def judge(self, images: torch.Tensor) -> Judgement:
        """Score images and map what is anomalous.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Judgement: Scores and maps.
        """
        raise NotImplementedError

    def explain(self, images: torch.Tensor) -> Explanation:
        """Tell what the network saw and expected, for pictures.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Explanation: Images, expectations and reads.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Fix what training learns beside the weights, in a copy that is exported. Nothing, unless a network has it."""

    def observe(self, images: torch.Tensor) -> torch.Tensor:
        """Tell of good images what :meth:`relearn` takes.

        Args:
            images (torch.Tensor): Good images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: What was observed of each, B along the first dimension: here R(x) and L(x), where there is
            one.
        """
        return torch.stack([part for part in self.scores(images) if part is not None], dim=1)

    def relearn(self, observed: torch.Tensor) -> None:
        """Take anew what is neither trained nor a threshold from good images under another light or camera.

        Args:
            observed (torch.Tensor): What :meth:`observe` told of them, of all images at once; two at least.
        """
        self.score.calibrate(observed[:, 0], observed[:, 1] if observed.shape[1] > 1 else None)

    def scores(self, images: torch.Tensor) -> Scores:
        """Compute the two parts of the fused score, in full precision also under autocast.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Scores: R(x) and L(x) of each image, not scaled.

        Raises:
            ValueError: If the images do not have the size that the network was built for.
        """
        self.check(images)
        with full_precision(images):
            return self.judge(self.cover(images)).scores

    def _infer(self, images: torch.Tensor) -> InferenceBatch:
        scores, anomaly_map = self.judge(images)
        if anomaly_map.shape[-2:] != images.shape[-2:]:
            anomaly_map = interpolate(anomaly_map, self.image_size, mode="bilinear")
        return flag_not_finite(images, self.score(*scores), anomaly_map)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and back in the mode that it was in.

    Args:
        network (nn.Module): Network.
    """
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)

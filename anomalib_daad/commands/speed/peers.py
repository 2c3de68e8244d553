# SPDX-License-Identifier: Apache-2.0

"""The models that are timed, with random weights: time does not depend on what a network has learned.

PatchCore's bank and PaDiM's Gaussians, which training fills, get the shapes that a training on ``num_images`` images
of the given size gives them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from anomalib.models.image.draem.torch_model import DraemModel
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.fastflow.torch_model import FastflowModel
from anomalib.models.image.ganomaly.torch_model import GanomalyModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.supersimplenet import torch_model as supersimplenet
from torch import nn

from anomalib_daad.components.inference import for_inference
from anomalib_daad.components.network import AnomalyNetwork
from anomalib_daad.models.daad import DaadModel
from anomalib_daad.models.daad_restoration import DaadRestoration
from anomalib_daad.models.daad_restoration.placement import KNOWN
from anomalib_daad.models.daad_restoration.torch_model import DOWNSCALES

CORESET_RATIO = 0.1
SMALL_CHANNELS = 24
SEEN = 64  # pixels that DaadRestoration's networks see at least, of images that are large enough


def _restoration(size: int, num_images: int, place: str | None = None) -> nn.Module:
    del num_images
    downscale = max((factor for factor in DOWNSCALES if factor <= 4 and size // factor >= SEEN), default=DOWNSCALES[0])
    model: Any = DaadRestoration((size, size), downscale).model
    if place == "registered":
        model.registration.recall.fill_(1.0)
        model.registration.likeness.fill_(1.0)
    if place == "searched":
        model.placement.growth.fill_(KNOWN)
    return model


def _patchcore(size: int, num_images: int) -> nn.Module:
    model = PatchcoreModel(layers=["layer2", "layer3"], backbone="wide_resnet50_2", pre_trained=False)
    patches = (size // 8) ** 2
    model.memory_bank = torch.randn(int(CORESET_RATIO * num_images * patches), sum(model.feature_extractor.out_dims))
    return model


def _padim(size: int, num_images: int) -> nn.Module:
    del num_images
    model: Any = PadimModel(backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False)
    patches = (size // 4) ** 2
    model.gaussian.mean = torch.randn(model.n_features, patches)
    model.gaussian.inv_covariance = torch.eye(model.n_features).repeat(patches, 1, 1)
    return model


def _efficient_ad(size: int, num_images: int) -> nn.Module:
    del size, num_images
    model = EfficientAdModel()
    model.mean_std["mean"].data += 0.1
    model.mean_std["std"].data += 1
    for quantile, value in (("qa_st", 0.1), ("qb_st", 0.2), ("qa_ae", 0.1), ("qb_ae", 0.2)):
        model.quantiles[quantile].data += value
    return model


def _super_simple_net(size: int, num_images: int) -> nn.Module:
    del size, num_images
    untrained = partial(supersimplenet.TimmFeatureExtractor, pre_trained=False)  # the model has no such argument
    with patch.object(supersimplenet, "TimmFeatureExtractor", untrained):
        return supersimplenet.SupersimplenetModel()


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "DaadRestoration": _restoration,
    "DaadRestoration, registered": partial(_restoration, place="registered"),
    "DaadRestoration, searched": partial(_restoration, place="searched"),
    "PatchCore": _patchcore,
    "PaDiM": _padim,
    "EfficientAD-S": _efficient_ad,
    "SuperSimpleNet": _super_simple_net,
    "DRAEM": lambda *_: DraemModel(),
    "GANomaly": lambda size, _: GanomalyModel((size, size), 3, 64, 100),
    "FastFlow": lambda size, _: FastflowModel((size, size), backbone="resnet18", pre_trained=False),
    "DAAD": lambda size, _: DaadModel((size, size), adversarial=False),
    "DAAD+": lambda size, _: DaadModel((size, size)),
    "DAAD+ small": lambda size, _: DaadModel((size, size), base_channels=SMALL_CHANNELS),
}


def build(name: str, size: int, num_images: int = 209) -> Any:
    """Build a model for inference.

    Args:
        name (str): One of ``MODELS``.
        size (int): Height and width of its images.
        num_images (int): Number of training images that PatchCore's bank stands for. Defaults to ``209``.

    Returns:
        Any: Model, an ``nn.Module``, in evaluation mode that takes images of shape ``(B, 3, size, size)``.
    """
    torch.manual_seed(0)
    model = MODELS[name](size, num_images).eval()
    return for_inference(model) if isinstance(model, AnomalyNetwork) else model

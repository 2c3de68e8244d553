# SPDX-License-Identifier: Apache-2.0

"""Models as their trials left them."""

from inspect import signature
from typing import Any

import anomalib.models
import torch
from anomalib.models import AnomalibModule

from .finding import Finding


def load(finding: Finding) -> AnomalibModule:
    """Read a trained model.

    Args:
        finding (Finding): Finding of its trial.

    Returns:
        AnomalibModule: The model in evaluation mode, on the CPU.
    """
    trial = finding.trial
    model_class: Any = getattr(anomalib.models, trial.contestant.class_path)
    # Checkpoints do not hold the pre-processor, whose size is some networks' size.
    sized = (
        {}
        if "image_size" in signature(model_class).parameters
        else {"pre_processor": model_class.configure_pre_processor((trial.image_size, trial.image_size))}
    )
    path = finding.folder / "model.ckpt"
    return model_class.load_from_checkpoint(path, map_location=torch.device("cpu"), weights_only=True, **sized).eval()

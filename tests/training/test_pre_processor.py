# SPDX-License-Identifier: Apache-2.0

"""The pre-processor, whose exported resize is that of its transform."""

import torch
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_daad.training.pre_processor import AntialiasPreProcessor


def test_pre_processor_forward_equals_its_transform() -> None:
    transform = Compose([Resize((64, 64), antialias=True), CenterCrop(48), Normalize([0.5] * 3, [0.5] * 3)])
    pre_processor = AntialiasPreProcessor(transform)
    images = torch.rand(2, 3, 200, 150)
    torch.testing.assert_close(pre_processor(images), transform(images))
    restored = AntialiasPreProcessor()
    restored.load_checkpoint_config(pre_processor.checkpoint_config())
    torch.testing.assert_close(restored(images), transform(images))

# SPDX-License-Identifier: Apache-2.0

"""Encoder and decoder: initial weights, channels, and the up-convolution that is exported as another."""

import numpy as np
import pytest
import torch
from torch import nn

from anomalib_daad.components.encoder_decoder import UpConvolution, scale_channels
from anomalib_daad.models.daad.torch_model import DaadModel


def test_weights_start_as_in_dcgan() -> None:
    torch.manual_seed(0)
    model = DaadModel((64, 64), (2, 2, 1), 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.01)
            assert module.bias.abs().max() == 0


@pytest.mark.parametrize("border", ["zeros", "replicate"])
@pytest.mark.parametrize(("channels", "bias"), [((6, 4), True), ((5, 3), False), ((1, 1), True)])
def test_exported_up_convolution_is_the_transposed_convolution(channels, bias, border) -> None:
    layer = UpConvolution(*channels, bias, border).double().eval()
    features = torch.randn(2, channels[0], 5, 7, dtype=torch.float64)
    exported = torch.export.export(layer, (features,))
    assert "conv_transpose" not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(features), layer(features), rtol=0, atol=1e-12)
    layer.fix_kernel()
    fixed = torch.export.export(layer, (features,))
    assert "permute" not in fixed.graph_module.code
    torch.testing.assert_close(fixed.module()(features), layer(features), rtol=0, atol=1e-12)
    assert set(layer.state_dict()) == {"weight", "bias"} - (set() if bias else {"bias"})


def test_a_replicated_border_is_that_of_a_larger_image() -> None:
    """Each scale sees the features as if its outermost rows and columns went on for ever."""
    layer = UpConvolution(3, 2, border="replicate").double()
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    larger = torch.from_numpy(np.pad(features.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), "edge"))
    expected = torch.nn.functional.conv_transpose2d(larger, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(features), expected[..., 6:-6, 6:-6], rtol=0, atol=1e-12)


def test_channels_double_up_to_512() -> None:
    assert scale_channels(64, 5) == [64, 128, 256, 512, 512]
    assert scale_channels(600, 3) == [600, 600, 600]
    for base, count in ((0, 3), (64, 0)):
        words = rf"num_scales and base_channels must be at least 1, got {count} and {base}"
        with pytest.raises(ValueError, match=words):
            scale_channels(base, count)

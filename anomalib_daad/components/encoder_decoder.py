# SPDX-License-Identifier: Apache-2.0

"""Encoder and decoder of strided convolutions, after DCGAN, which all networks of this package are built of.

The encoder halves the resolution at each scale; the decoder doubles it back and concatenates the features of each
scale, as U-Net does. Strides, widths, normalisation, activations and initial weights are DCGAN's and Skip-GANomaly's.

Example:
    >>> import torch
    >>> channels = scale_channels(base_channels=8, num_scales=3)
    >>> features = Encoder(3, channels)(torch.randn(2, 3, 32, 32))
    >>> [tuple(feature.shape[1:]) for feature in features]
    [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    >>> Decoder(channels, 3)(features).shape
    torch.Size([2, 3, 32, 32])
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, pad, pixel_shuffle

Border = Literal["zeros", "replicate"]
MAX_CHANNELS = 512


def scale_channels(base_channels: int, num_scales: int) -> list[int]:
    """Channels of each scale, fine to coarse: doubled at each one, up to 512.

    Args:
        base_channels (int): Channels of the finest scale.
        num_scales (int): Number of scales.

    Returns:
        list[int]: Channels, ``num_scales`` of them.

    Raises:
        ValueError: If either number is below 1.
    """
    if num_scales < 1 or base_channels < 1:
        msg = f"num_scales and base_channels must be at least 1, got {num_scales} and {base_channels}."
        raise ValueError(msg)
    return [min(base_channels * 2**scale, max(MAX_CHANNELS, base_channels)) for scale in range(num_scales)]


class Encoder(nn.Module):
    """Strided convolutions, each halving the resolution.

    Args:
        in_channels (int): Channels of the image.
        channels (Sequence[int]): Channels of each scale, fine to coarse.
        border (str): What lies beyond the borders, ``"zeros"`` or ``"replicate"``. Defaults to ``"zeros"``.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], border: Border = "zeros") -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1, padding_mode=border)
        first = nn.Sequential(convolution(in_channels, channels[0]), nn.LeakyReLU(0.2, inplace=True))
        others = [
            nn.Sequential(
                convolution(fine, coarse, bias=False), nn.BatchNorm2d(coarse), nn.LeakyReLU(0.2, inplace=True)
            )
            for fine, coarse in pairwise(channels)
        ]
        self.scales = nn.ModuleList([first, *others])
        self.border = border

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Encode images.

        Args:
            images (torch.Tensor): Images, shape ``(B, in_channels, H, W)``.

        Returns:
            list[torch.Tensor]: Features of each scale, fine to coarse; scale ``l`` (from 1) has shape
            ``(B, C_l, H / 2**l, W / 2**l)``.
        """
        features = []
        for scale in self.scales:
            images = scale(images)
            features.append(images)
        return features


class UpConvolution(nn.ConvTranspose2d):
    """Transposed convolution, 4x4 with stride 2, that is exported as a convolution and a shuffle of its pixels.

    OpenVINO computes a transposed convolution in float32 where it computes all else in bfloat16, at half the rate.

    Args:
        in_channels (int): Channels of the features.
        out_channels (int): Channels of the result.
        bias (bool): Add a bias. Defaults to ``True``.
        border (str): What lies beyond the borders, ``"zeros"`` or ``"replicate"``: with zeros, results at the borders
            lack a part of their terms. Defaults to ``"zeros"``.
    """

    fixed_kernel: torch.Tensor | None

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, border: Border = "zeros") -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=bias)
        self.border = border
        self.register_buffer("fixed_kernel", None, persistent=False)

    def fix_kernel(self) -> None:
        """Keep the kernel of exports as a constant, which tools that quantise or compile graphs ask for."""
        self.fixed_kernel = self._phases_of_the_kernel().detach().contiguous()

    def forward(self, features: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Double the resolution.

        Args:
            features (torch.Tensor): Features, shape ``(B, in_channels, H, W)``.
            output_size (list[int] | None): Not used. Defaults to ``None``.

        Returns:
            torch.Tensor: Features, shape ``(B, out_channels, 2 H, 2 W)``.
        """
        del output_size
        margin = int(self.border == "replicate")
        if margin:
            features = pad(features, (margin, margin, margin, margin), "replicate")
        if not torch.compiler.is_exporting():
            return conv_transpose2d(features, self.weight, self.bias, stride=2, padding=1 + 2 * margin)
        kernel = self._phases_of_the_kernel() if self.fixed_kernel is None else self.fixed_kernel
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        phases = conv2d(features, kernel, bias, padding=1 - margin)  # (B, 4 out, H + 1, W + 1)
        inside = pixel_shuffle(phases, 2)[..., 1:-1, 1:-1]
        return inside.contiguous()  # an activation in place would be exported as a write into the margins

    def _phases_of_the_kernel(self) -> torch.Tensor:
        """Kernel of four results at a time: ``(in, out, 4, 4) -> (4 out, in, 2, 2)``."""
        # Rows 2i - 1 and 2i of the result (phases 0 and 1) see rows i - 1 and i of the features through the kernel's
        # rows 2 and 0, or 3 and 1; columns likewise.
        kernel = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2))  # (in, out, row, phase, column, phase)
        kernel = kernel.flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        return kernel.reshape(4 * self.out_channels, self.in_channels, 2, 2)


class Decoder(nn.Module):
    """Transposed convolutions, each doubling the resolution, with the features of each scale concatenated.

    Args:
        channels (Sequence[int]): Channels of each scale, fine to coarse.
        out_channels (int): Channels of the image.
        skips (bool): Take the features of all scales; without, of the coarsest alone. Defaults to ``True``.
        bottleneck (int | None): Channels of the coarsest features; ``None`` are those of the scale.
            Defaults to ``None``.
        activation (bool): End with tanh. Defaults to ``True``.
        border (str): What lies beyond the borders, ``"zeros"`` or ``"replicate"``. Defaults to ``"zeros"``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        skips: bool = True,
        bottleneck: int | None = None,
        activation: bool = True,
        border: Border = "zeros",
    ) -> None:
        super().__init__()
        coarse_to_fine = list(channels[::-1])
        inputs = [bottleneck or coarse_to_fine[0], *((1 + skips) * c for c in coarse_to_fine[1:])]
        convolution = partial(UpConvolution, border=border)
        hidden = [
            nn.Sequential(convolution(c_in, c_out, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))
            for c_in, c_out in zip(inputs, coarse_to_fine[1:], strict=False)
        ]
        last = nn.Sequential(convolution(inputs[-1], out_channels), nn.Tanh() if activation else nn.Identity())
        self.scales = nn.ModuleList([*hidden, last])
        self.skips = skips
        self.border = border

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Decode the features of all scales.

        Args:
            features (Sequence[torch.Tensor]): Features of each scale, fine to coarse; without skips, of the coarsest.

        Returns:
            torch.Tensor: Images, shape ``(B, out_channels, H, W)``; in [-1, 1] with the activation.
        """
        *skips, decoded = features
        if not self.skips:
            return nn.Sequential(*self.scales)(decoded)
        for scale, skip in zip(self.scales[:-1], reversed(skips), strict=True):
            decoded = torch.cat([scale(decoded), skip], dim=1)
        return self.scales[-1](decoded)


def initialize_weights(module: nn.Module) -> None:
    """Initialise a layer as DCGAN does: N(0, 0.02) for convolutions, N(1, 0.02) for batch-norm scales.

    Args:
        module (nn.Module): Any module; others than these layers are left alone.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)

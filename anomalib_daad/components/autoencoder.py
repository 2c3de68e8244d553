# SPDX-License-Identifier: Apache-2.0

"""Autoencoder whose every encoder-decoder connection passes through a block-wise memory (section 3.1.1, Figure 3).

The encoder halves the resolution at each scale; each scale's features go through a bank of their own; the decoder
doubles the resolution back and concatenates what each bank returned. The bottleneck has its bank too, so that nothing
reaches the decoder but memory reads. The paper gives the down-sampling (16x) and the U-Net form; strides, widths,
normalisation and activations follow DCGAN and Skip-GANomaly, which it cites.

Example:
    >>> import torch
    >>> autoencoder = MemoryAutoencoder(image_size=(128, 128), division_rates=(8, 8, 1), num_items=500)
    >>> autoencoder(torch.randn(2, 3, 128, 128)).shape
    torch.Size([2, 3, 128, 128])
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, pad, pixel_shuffle

from anomalib_daad.models.daad_restoration.light import light

from .block_memory import BlockMemory, MemoryInit, MemoryRead

Connections = Literal["memory", "bottleneck_memory", "skip", "none"]
Border = Literal["zeros", "replicate"]
WITH_MEMORY = {"memory", "bottleneck_memory"}  # connections that hold banks, whose blocks the size must allow
MAX_CHANNELS = 512
CONTRAST = 0.4  # that standardised images have
# Of a hundred items one or two weigh within this range below 1/N; float32 backends differ by a thousandth of it.
DROP_WIDTH = 1e-3


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

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, border: Border = "zeros") -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=bias)
        self.border = border

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
        # Rows 2i - 1 and 2i of the result (phases 0 and 1) see rows i - 1 and i of the features through the kernel's
        # rows 2 and 0, or 3 and 1; columns likewise.
        kernel = (
            self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2)).flip(2, 4)
        )  # (in, out, row, phase, column, phase)
        kernel = kernel.permute(1, 3, 5, 0, 2, 4).reshape(4 * self.out_channels, self.in_channels, 2, 2)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        phases = conv2d(features, kernel, bias, padding=1 - margin)  # (B, 4 out, H + 1, W + 1)
        inside = pixel_shuffle(phases, 2)[..., 1:-1, 1:-1]
        return inside.contiguous()  # an activation in place would be exported as a write into the margins


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


class Reconstruction(NamedTuple):
    """What an autoencoder made of images.

    Attributes:
        images (torch.Tensor): Reconstructions, shape ``(B, 3, H, W)``.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
    """

    images: torch.Tensor
    reads: list[MemoryRead]


class MemoryAutoencoder(nn.Module):
    """DAAD's generator, and its relatives: encoder, memories, decoder.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        division_rates (tuple[int, int, int] | None): ``(r_h, r_w, r_c)``, the same at all scales; ``None`` makes every
            pixel of every scale's features a block of its own, as in MemAE.
        num_items (int): Items of each bank.
        num_scales (int): Number of scales; the bottleneck is down-sampled ``2**num_scales`` times.
            Defaults to ``4``.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        temperature (float): See :class:`BlockMemory`. Defaults to ``1.0``.
        renormalize (bool): See :class:`BlockMemory`. Defaults to ``False``.
        memory_init (str): ``init`` of :class:`BlockMemory`. Defaults to ``"normal"``.
        drop_below (float): See :class:`BlockMemory`. Defaults to ``1.0``.
        connections (str): What connects encoder and decoder: ``"memory"``, a bank at every scale (DAAD);
            ``"bottleneck_memory"``, a bank at the coarsest scale and nothing else (MemAE); ``"skip"``, the features
            themselves (AE+Skip); ``"none"``, the features of the coarsest scale (AE). Defaults to ``"memory"``.
        standardize (bool): Encode every image with the same mean and contrast, decode without tanh, and give the
            reconstruction the image's own mean and contrast back: more or less light is then no defect.
            Defaults to ``False``.
        in_channels (int): Channels of the images, 4 with detail. Defaults to ``3``.

    Raises:
        ValueError: If the image size is not divisible by ``2**num_scales``, the rates do not divide the features, or
            a choice is unknown.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        division_rates: tuple[int, int, int] | None,
        num_items: int,
        num_scales: int = 4,
        base_channels: int = 64,
        temperature: float = 1.0,
        renormalize: bool = False,
        memory_init: MemoryInit = "normal",
        drop_below: float = 1.0,
        connections: Connections = "memory",
        standardize: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        height, width = image_size
        if connections not in get_args(Connections):
            msg = f"connections must be one of {get_args(Connections)}, got {connections!r}."
            raise ValueError(msg)
        has_memory = [
            connections == "memory" or (connections == "bottleneck_memory" and scale == num_scales)
            for scale in range(1, num_scales + 1)
        ]
        channels = scale_channels(base_channels, num_scales)
        check_image_size(image_size, division_rates if connections in WITH_MEMORY else None, num_scales)
        self.encoder = Encoder(in_channels, channels)
        self.memories = nn.ModuleList()
        for scale, (c, memory) in enumerate(zip(channels, has_memory, strict=True), start=1):
            size = (height >> scale, width >> scale)
            rates = division_rates or (*size, 1)
            options = (num_items, temperature, renormalize, DROP_WIDTH, memory_init, drop_below)
            self.memories.append(BlockMemory((c, *size), rates, *options) if memory else nn.Identity())
        self.decoder = Decoder(channels, in_channels, connections in {"memory", "skip"}, activation=not standardize)
        self.standardize = standardize
        self.apply(initialize_weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct images.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor: Reconstructions, shape ``(B, 3, H, W)``; in [-1, 1], with ``standardize`` about that.
        """
        return self.reconstruct(images).images

    def reconstruct(self, images: torch.Tensor) -> Reconstruction:
        """Reconstruct images, and tell what the memories did.

        Args:
            images (torch.Tensor): Images in [-1, 1], shape ``(B, 3, H, W)``.

        Returns:
            Reconstruction: Reconstructions and reads.
        """
        if not self.standardize:
            return self._reconstruct(images)
        mean, contrast = light(images.float())
        scale = contrast / CONTRAST
        standardized = self._reconstruct(((images - mean) / scale).to(images.dtype))
        return standardized._replace(images=standardized.images * scale + mean)

    def relative_contrast(self, images: torch.Tensor) -> torch.Tensor | None:
        """Measure what standardising divides images by, for the loss to see them as the network does.

        Args:
            images (torch.Tensor): Images that are reconstructed, shape ``(B, 3, H, W)``.

        Returns:
            torch.Tensor | None: Shape ``(B, 1, 1, 1)``, with detail ``(B, 4, 1, 1)``, 1 for images of the contrast that
            standardised ones have; None without ``standardize``.
        """
        return light(images.float()).contrast / CONTRAST if self.standardize else None

    def _reconstruct(self, images: torch.Tensor) -> Reconstruction:
        features, reads = [], []
        for memory, feature in zip(self.memories, self.encoder(images), strict=True):
            if isinstance(memory, BlockMemory):
                reads.append(memory.read(feature))
                features.append(reads[-1].features)
            else:
                features.append(memory(feature))
        return Reconstruction(self.decoder(features), reads)


def check_image_size(
    image_size: tuple[int, int], rates: tuple[int, int, int] | None, num_scales: int, downscale: int = 1
) -> None:
    """Refuse an image size that scales and rates do not divide.

    Args:
        image_size (tuple[int, int]): Height and width of the images.
        rates (tuple[int, int, int] | None): Division rates; None divides into pixels.
        num_scales (int): Number of scales.
        downscale (int): How many times smaller the network sees the images. Defaults to ``1``.

    Raises:
        ValueError: If they do not divide it.
    """
    height, width = image_size
    r_h, r_w, _ = rates or (1, 1, 1)
    down = downscale * 2**num_scales
    if min(r_h, r_w) < 1 or height % (r_h * down) or width % (r_w * down):
        factor = "2**num_scales" if downscale == 1 else "downscale * 2**num_scales"
        msg = (
            f"image_size {height}x{width} must be divisible by {r_h * down}x{r_w * down}, which is {factor} = "
            f"{down} times the division_rates ({r_h}, {r_w}) along height and width; choose another image_size, "
            f"smaller rates or fewer scales."
        )
        raise ValueError(msg)


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

# SPDX-License-Identifier: Apache-2.0

"""A trained model rewritten for inference: the same scores from fewer operations.

Batch norm is folded into the convolutions. The finest memory is read in image space: what it returns reaches the image
through one transposed convolution, so its items go through that convolution once, here, and each block reads a patch
of the image with 3 channels in place of a block of features with many.

Example:
    >>> import torch
    >>> from anomalib_daad.torch_model import DaadModel
    >>> model = DaadModel(image_size=(64, 64), division_rates=(4, 4, 1), num_items=20, base_channels=8).eval()
    >>> images = torch.rand(2, 3, 64, 64) * 2 - 1
    >>> torch.allclose(model(images).pred_score, for_inference(model)(images).pred_score, atol=1e-4)
    True
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import conv_transpose2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .autoencoder import Decoder, UpConvolution
from .block_memory import BlockMemory
from .torch_model import DaadModel


def for_inference(model: DaadModel) -> DaadModel:
    """Rewrite a model for inference; the model itself stays as it is.

    Args:
        model (DaadModel): Trained model.

    Returns:
        DaadModel: Model in evaluation mode with the same scores and maps, which cannot be trained.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            convolution, norm, *others = module
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            folded = fuse_conv_bn_eval(convolution, norm, transposed)
            model.set_submodule(name, nn.Sequential(folded, *others))
    autoencoder = model.autoencoder
    finest, *coarser = autoencoder.memories
    autoencoder.memories = nn.ModuleList(ChannelsLastMemory(memory) for memory in (finest, *coarser))
    if coarser:
        decoder = ImageSpaceDecoder(autoencoder.decoder)
        read = ImageSpaceRead(finest, decoder.skip_weight)
        if read.saves:
            autoencoder.memories[0], autoencoder.decoder = read, decoder
    return model.to(memory_format=torch.channels_last)


class ChannelsLastMemory(BlockMemory):
    """Memory whose blocks are flattened in the order row, column, channel: cut from channels_last features in rows.

    Args:
        memory (BlockMemory): Memory to take over.
    """

    def __init__(self, memory: BlockMemory) -> None:
        options = (memory.temperature, memory.renormalize, memory.drop_width)
        super().__init__(memory.feature_shape, memory.division_rates, len(memory.items), *options)
        items = memory.items.detach().unflatten(1, self.block_shape).permute(0, 2, 3, 1)
        self.items = nn.Parameter(items.flatten(1), requires_grad=False)

    def divide(self, features: torch.Tensor) -> torch.Tensor:
        r_h, r_w, r_c = self.division_rates
        c, h, w = self.block_shape
        pixels = features.permute(0, 2, 3, 1)  # (B, H, W, C)
        blocks = pixels.reshape(-1, r_h, h, r_w, w, r_c, c).permute(0, 1, 3, 5, 2, 4, 6)
        return blocks.reshape(-1, r_h * r_w * r_c, h * w * c)

    def assemble(self, blocks: torch.Tensor) -> torch.Tensor:
        """Assemble flattened blocks into a feature map.

        Args:
            blocks (torch.Tensor): Blocks, shape ``(B, Q, D)``.

        Returns:
            torch.Tensor: Feature map, shape ``(B, C, H, W)``, in channels_last memory.
        """
        r_h, r_w, r_c = self.division_rates
        c, h, w = self.block_shape
        grid = blocks.reshape(-1, r_h, r_w, r_c, h, w, c).permute(0, 1, 4, 2, 5, 3, 6)
        return grid.reshape(-1, r_h * h, r_w * w, r_c * c).permute(0, 3, 1, 2)


class ImageSpaceRead(nn.Module):
    """Read of a memory and the transposed convolution behind it in one.

    Args:
        memory (BlockMemory): Memory.
        weight (torch.Tensor): Weight of the convolution, 4x4 with stride 2, shape ``(C, 3, 4, 4)``.

    Attributes:
        patches (torch.Tensor): The items of each channel group after the convolution, shape
            ``(r_c * N, 3 * (2 h + 2) * (2 w + 2))``; neighbours overlap by 2 pixels.
    """

    patches: torch.Tensor

    def __init__(self, memory: BlockMemory, weight: torch.Tensor) -> None:
        super().__init__()
        self.memory = ChannelsLastMemory(memory)
        c, h, w = memory.block_shape
        self.patch_shape = (weight.shape[1], 2 * h + 2, 2 * w + 2)
        items = memory.items.detach().reshape(-1, c, h, w)
        groups = [conv_transpose2d(items, part, stride=2).flatten(1) for part in weight.detach().split(c)]
        self.register_buffer("patches", torch.cat(groups))

    @property
    def saves(self) -> bool:
        """Whether a patch of the image, which has a margin, is smaller than a block of features."""
        return math.prod(self.patch_shape) < math.prod(self.memory.block_shape)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Read the memory and convolve.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Image, shape ``(B, 3, 2 H, 2 W)``.
        """
        r_h, r_w, _ = self.memory.division_rates
        weights = self.memory.address(features)  # (B, Q, N)
        weights = weights.reshape(-1, r_h * r_w, self.patches.shape[0])  # (B, r_h r_w, r_c N)
        patches = (weights.to(self.patches.dtype) @ self.patches).reshape(-1, r_h, r_w, *self.patch_shape)
        grid = patches.permute(0, 3, 1, 4, 2, 5)  # (B, 3, r_h, 2 h + 2, r_w, 2 w + 2)
        return _overlap_add(_overlap_add(grid, 2), 3)  # (B, 3, 2 H, 2 W)


def _overlap_add(grid: torch.Tensor, dim: int) -> torch.Tensor:
    """Join ``r`` patches of ``s + 2`` pixels along ``dim`` and ``dim + 1`` to ``r * s``, without the outer margin."""
    count, stride = grid.shape[dim], grid.shape[dim + 1] - 2
    behind = (0, 0) * (grid.dim() - dim - 2)
    first = grid.narrow(dim + 1, 0, stride).flatten(dim, dim + 1)
    last = pad(grid.narrow(dim + 1, stride, 2), (*behind, 0, stride - 2)).flatten(dim, dim + 1)
    joined = pad(first, (*behind, 0, stride)) + pad(last, (*behind, stride, 0))
    return joined.narrow(dim, 1, count * stride)


class ImageSpaceDecoder(nn.Module):
    """Decoder whose finest features are an image already.

    Args:
        decoder (Decoder): Decoder of at least two scales.

    Attributes:
        skip_weight (torch.Tensor): What the finest features went through, shape ``(C, 3, 4, 4)``.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        *hidden, last = decoder.scales
        convolution, self.activation = last
        channels = convolution.in_channels // 2
        weight = convolution.weight.detach()
        self.skip_weight = weight[channels:]
        self.scales = nn.ModuleList(hidden)
        self.convolution = UpConvolution(channels, convolution.out_channels).requires_grad_(False)
        self.convolution.weight.copy_(weight[:channels])
        self.convolution.bias.copy_(convolution.bias)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Decode the features of all scales.

        Args:
            features (Sequence[torch.Tensor]): What :class:`ImageSpaceRead` returned, then the features of the other
                scales, fine to coarse.

        Returns:
            torch.Tensor: Images in [-1, 1], shape ``(B, 3, H, W)``.
        """
        image, *skips, decoded = features
        first, *others = self.scales
        decoded = first(decoded)
        for scale, skip in zip(others, reversed(skips), strict=True):
            decoded = scale(torch.cat([decoded, skip], dim=1))
        return self.activation(self.convolution(decoded) + image)

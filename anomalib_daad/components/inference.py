# SPDX-License-Identifier: Apache-2.0

"""A trained model rewritten for inference: the same scores from fewer operations.

Batch norm is folded into the convolutions. Items are kept in the order of channels_last features, so that blocks are
cut from them in whole rows. The finest memory is read in image space: what it returns reaches the image through one
transposed convolution alone, so its items go through that convolution once, here, and a block then reads a patch of
the image with 3 channels in place of features with many.
What training learns beside the weights is settled.

Example:
    >>> import torch
    >>> from anomalib_daad.models.daad.torch_model import DaadModel
    >>> network = DaadModel(image_size=(64, 64), division_rates=(4, 4, 1), num_items=20, base_channels=8).eval()
    >>> images = torch.rand(2, 3, 64, 64) * 2 - 1
    >>> torch.allclose(network(images).pred_score, for_inference(network)(images).pred_score, atol=1e-4)
    True
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import conv_transpose2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .autoencoder import MemoryAutoencoder
from .block_memory import BlockMemory
from .encoder_decoder import UpConvolution
from .network import AnomalyNetwork

Network = TypeVar("Network", bound=AnomalyNetwork)


def for_inference(network: Network) -> Network:
    """Rewrite a network for inference; the network itself stays as it is.

    Args:
        network (AnomalyNetwork): Trained network.

    Returns:
        AnomalyNetwork: Network in evaluation mode with the same scores and maps, which cannot be trained.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    _fold_batch_norm(network)
    for autoencoder in [module for module in network.modules() if isinstance(module, MemoryAutoencoder)]:
        _rewrite_memories(autoencoder)
    network.settle()
    return network.to(memory_format=torch.channels_last)


def _fold_batch_norm(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Sequential):
            continue
        match list(module):
            case [nn.Conv2d() | nn.ConvTranspose2d() as convolution, nn.BatchNorm2d() as norm, *others]:
                folded = fuse_conv_bn_eval(convolution, norm, isinstance(convolution, nn.ConvTranspose2d))
                model.set_submodule(name, nn.Sequential(folded, *others))


def _rewrite_memories(autoencoder: Any) -> None:  # a MemoryAutoencoder whose parts change their types
    memories = [ChannelsLastMemory(m) if isinstance(m, BlockMemory) else m for m in autoencoder.memories]
    finest = autoencoder.memories[0]
    *hidden, last = autoencoder.decoder.scales
    if hidden and isinstance(finest, BlockMemory):
        convolution, activation = last
        from_decoder, from_finest = convolution.weight.detach().chunk(2)
        read = ImageSpaceRead(finest, from_finest)
        if math.prod(read.patch_shape) < math.prod(finest.block_shape):
            memories[0] = read
            autoencoder.decoder = ImageSpaceDecoder(hidden, from_decoder, convolution.bias.detach(), activation)
    autoencoder.memories = nn.ModuleList(memories)


class ChannelsLastMemory(BlockMemory):
    """Memory whose blocks are flattened in the order row, column, channel, as channels_last features hold them.

    Args:
        memory (BlockMemory): Memory to take over.
    """

    def __init__(self, memory: BlockMemory) -> None:
        super().__init__(
            memory.feature_shape,
            memory.division_rates,
            len(memory.items),
            memory.temperature,
            memory.renormalize,
            memory.drop_width,
            drop_below=memory.drop_below,
            similarity=memory.similarity,
        )
        items = memory.items.detach().unflatten(1, self.block_shape).permute(0, 2, 3, 1)  # (N, h, w, c)
        self.items = nn.Parameter(items.flatten(1), requires_grad=False)

    def divide(self, features: torch.Tensor) -> torch.Tensor:
        """Divide a feature map into flattened blocks.

        Args:
            features (torch.Tensor): Feature map, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Queries, shape ``(B, Q, D)``.
        """
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
        patch_shape (tuple[int, int, int]): ``(3, 2 h + 2, 2 w + 2)`` for blocks of ``h x w``: neighbours overlap by
            two pixels.
        patches (torch.Tensor): The items of each channel group after the convolution, shape ``(r_c * N, P)`` with
            ``P`` the pixels of a patch.
    """

    patches: torch.Tensor

    def __init__(self, memory: BlockMemory, weight: torch.Tensor) -> None:
        super().__init__()
        self.memory = ChannelsLastMemory(memory)
        c, h, w = memory.block_shape
        self.patch_shape = (weight.shape[1], 2 * h + 2, 2 * w + 2)
        items = memory.items.detach().reshape(-1, c, h, w)
        groups = [conv_transpose2d(items, part, stride=2).flatten(1) for part in weight.split(c)]
        self.register_buffer("patches", torch.cat(groups))

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
        hidden (Sequence[nn.Module]): The scales before the last, coarse to fine.
        weight (torch.Tensor): Weight of the last scale for what the one before it decoded, shape ``(C, 3, 4, 4)``.
        bias (torch.Tensor): Bias of the last scale, shape ``(3,)``.
        activation (nn.Module): Activation of the last scale.
    """

    def __init__(
        self, hidden: Sequence[nn.Module], weight: torch.Tensor, bias: torch.Tensor, activation: nn.Module
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(hidden)
        self.last = UpConvolution(weight.shape[0], weight.shape[1]).to(weight.device, weight.dtype)
        self.last.load_state_dict({"weight": weight, "bias": bias})
        self.last.requires_grad_(False)
        self.activation = activation

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
        return self.activation(self.last(decoded) + image)

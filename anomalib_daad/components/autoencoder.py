# SPDX-License-Identifier: Apache-2.0

"""Autoencoder whose every encoder-decoder connection passes through a block-wise memory (section 3.1.1, Figure 3).

The encoder halves the resolution at each scale; each scale's features go through a bank of their own; the decoder
doubles the resolution back and concatenates what each bank returned. The bottleneck has its bank too, so that nothing
reaches the decoder but memory reads. The paper gives the down-sampling (16x) and the U-Net form.

Example:
    >>> import torch
    >>> autoencoder = MemoryAutoencoder((128, 128), (8, 8, 1), memory_of(num_items=500))
    >>> autoencoder(torch.randn(2, 3, 128, 128)).shape
    torch.Size([2, 3, 128, 128])
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from .block_memory import BlockMemory, MemoryRead
from .encoder_decoder import Decoder, Encoder, initialize_weights, scale_channels
from .image_size import count_scales, refuse_image_size

Connections = Literal["memory", "bottleneck_memory", "skip", "none"]
Rates = tuple[int, int, int]
MemoryFactory = Callable[[tuple[int, int, int], Rates], BlockMemory]  # of the features' shape and the division rates
# Of a hundred items one or two weigh within this range below 1/N; float32 backends differ by a thousandth of it.
DROP_WIDTH = 1e-3


def memory_of(num_items: int, **options: Any) -> MemoryFactory:
    """Say how the memories of an autoencoder are built: as in the paper, with the drop at 1/N as a ramp.

    Args:
        num_items (int): Items of each memory.
        options: Other arguments of :class:`BlockMemory`.

    Returns:
        MemoryFactory: Builds a memory.
    """
    return partial(BlockMemory, num_items=num_items, drop_width=DROP_WIDTH, **options)


class Reconstruction(NamedTuple):
    """What an autoencoder made of images.

    Attributes:
        images (torch.Tensor): Reconstructions, of the images' shape.
        reads (list[MemoryRead]): What each memory did, fine to coarse.
    """

    images: torch.Tensor
    reads: list[MemoryRead]


class MemoryAutoencoder(nn.Module):
    """DAAD's generator, and its relatives: encoder, memories, decoder.

    Args:
        image_size (tuple[int, int]): Height and width of the images; they decide how many scales there are, see
            :func:`count_scales`.
        division_rates (tuple[int, int, int] | None): ``(r_h, r_w, r_c)``, the same at all scales; ``None`` makes every
            pixel of every scale's features a block of its own, as in MemAE. Without effect without memories.
        memory (MemoryFactory): Builds the memory of a scale, see :func:`memory_of`.
        base_channels (int): Channels of the finest scale. Defaults to ``64``.
        connections (str): What connects encoder and decoder: ``"memory"``, a bank at every scale (DAAD);
            ``"bottleneck_memory"``, a bank at the coarsest scale and nothing else (MemAE); ``"skip"``, the features
            themselves (AE+Skip); ``"none"``, the features of the coarsest scale (AE). Defaults to ``"memory"``.
        in_channels (int): Channels C of the images. Defaults to ``3``.
        activation (bool): End with tanh, so that reconstructions lie in [-1, 1]. Defaults to ``True``.

    Raises:
        ValueError: If scales and rates do not divide the image size, or a choice is unknown.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        division_rates: Rates | None,
        memory: MemoryFactory,
        base_channels: int = 64,
        connections: Connections = "memory",
        in_channels: int = 3,
        activation: bool = True,
    ) -> None:
        super().__init__()
        if connections not in get_args(Connections):
            msg = f"connections must be one of {get_args(Connections)}, got {connections!r}."
            raise ValueError(msg)
        num_scales = count_scales(image_size)
        with_memory = {"memory": range(1, num_scales + 1), "bottleneck_memory": [num_scales]}.get(connections, [])
        _check_image_size(image_size, division_rates if with_memory else None, num_scales)
        channels = scale_channels(base_channels, num_scales)
        self.encoder = Encoder(in_channels, channels)
        self.memories = nn.ModuleList()
        for scale, c in enumerate(channels, start=1):
            size = (image_size[0] >> scale, image_size[1] >> scale)
            rates = division_rates or (*size, 1)
            self.memories.append(memory((c, *size), rates) if scale in with_memory else nn.Identity())
        self.decoder = Decoder(channels, in_channels, connections in {"memory", "skip"}, activation=activation)
        self.apply(initialize_weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct images.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.

        Returns:
            torch.Tensor: Reconstructions, same shape; in [-1, 1] with the activation.
        """
        return self.reconstruct(images).images

    def reconstruct(self, images: torch.Tensor) -> Reconstruction:
        """Reconstruct images, and tell what the memories did.

        Args:
            images (torch.Tensor): Images, shape ``(B, C, H, W)``.

        Returns:
            Reconstruction: Reconstructions and reads.
        """
        features, reads = [], []
        for memory, feature in zip(self.memories, self.encoder(images), strict=True):
            if isinstance(memory, BlockMemory):
                reads.append(memory.read(feature))
                features.append(reads[-1].features)
            else:
                features.append(memory(feature))
        return Reconstruction(self.decoder(features), reads)


def _check_image_size(image_size: tuple[int, int], rates: Rates | None, num_scales: int) -> None:
    r_h, r_w, _ = rates or (1, 1, 1)
    if min(r_h, r_w) < 1:
        msg = f"division_rates must be at least 1, got {rates}."
        raise ValueError(msg)

    def units_of(size: tuple[int, int]) -> tuple[int, int]:
        return r_h << count_scales(size), r_w << count_scales(size)

    down = 2**num_scales
    reason = f"the {down}x down-sampling times the division_rates ({r_h}, {r_w}) along height and width"
    refuse_image_size(image_size, units_of, reason)

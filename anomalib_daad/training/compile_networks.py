# SPDX-License-Identifier: Apache-2.0

"""Training with networks that ``torch.compile`` has compiled."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_daad.components.encoder_decoder import Decoder, Encoder


class CompileNetworks(Callback):
    """Compiles encoders and decoders for training. Checkpoints and exports are the same; on CPUs it is slower.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[CompileNetworks()])
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile the networks of a model in place, which leaves their parameters' names alone.

        Args:
            trainer (Trainer): Not used.
            pl_module (LightningModule): Model.
        """
        del trainer
        torch._functorch.config.donated_buffer = False  # noqa: SLF001  # two losses share one pass of a discriminator
        for module in pl_module.modules():
            # PyTorch 2.14 fails on the gradient of replicated borders in channels_last.
            if isinstance(module, Encoder | Decoder) and module.border == "zeros":
                module.compile()

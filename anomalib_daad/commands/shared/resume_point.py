# SPDX-License-Identifier: Apache-2.0

"""A checkpoint that a stopped training goes on from."""

from lightning.pytorch.callbacks import ModelCheckpoint


class ResumePoint(ModelCheckpoint):
    """Checkpoint to go on from, beside the one that anomalib's Engine writes."""

    @property
    def state_key(self) -> str:
        """Key of its own in checkpoints, where Lightning would take it for the Engine's."""
        return "ResumePoint"

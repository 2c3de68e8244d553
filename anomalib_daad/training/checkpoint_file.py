# SPDX-License-Identifier: Apache-2.0

"""Checkpoints are there whole or not at all, and damaged ones are refused.

Lightning writes a checkpoint to the folder for temporary files and moves it onto the last one. Where the two folders
are on different disks, moving is copying: a full disk or a kill then costs the last good checkpoint. Here the new one
is written beside the last and takes its name when it is whole.

PyTorch does not look at the checksums of what it reads, so that a flipped bit becomes another weight. Here they count.
"""

import errno
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from lightning.pytorch import Trainer

from anomalib_daad.error_message import first_line


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reader and writer of checkpoints, for local files; others are left to it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside the last, and put it in its place.

        Args:
            checkpoint (dict[str, Any]): Checkpoint.
            path (Any): File to write.
            storage_options (Any): As Lightning's. Defaults to ``None``.

        Raises:
            OSError: If it cannot be written; the last one is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path, content = Path(path), BytesIO()
        torch.save(checkpoint, content)
        draft = path.with_name(f".{path.name}.part")  # one name, so that kills leave no more than one behind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            _remove(draft)
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            reason = "there is no space left on the disk" if is_full else error.strerror
            kept = f"go on from the last one with --ckpt_path {path}" if path.exists() else "there is none before it"
            msg = f"The checkpoint {path} cannot be written: {reason}; {kept}."
            raise OSError(msg) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; weights alone also where the environment would allow code.

        Args:
            path (Any): File to read.
            map_location (Any): As PyTorch's. Defaults to ``None``.
            weights_only (bool | None): Refuse code. ``None``, which Lightning gives, does. Defaults to ``True``.

        Returns:
            dict[str, Any]: Checkpoint.

        Raises:
            ValueError: If it is damaged, or no checkpoint.
        """
        with refuse_damaged(path):
            checkpoint = super().load_checkpoint(path, map_location, weights_only is not False)
            is_whole = "pytorch-lightning_version" in checkpoint
            if not is_whole or not all(isinstance(it, torch.Tensor) for it in checkpoint["state_dict"].values()):
                msg = "a weight or the version of Lightning is missing"
                raise KeyError(msg)
            return checkpoint


def write_whole_checkpoints(trainer: Trainer) -> None:
    """Let a trainer read and write checkpoints as this module does, unless it was given another way.

    Args:
        trainer (Trainer): Trainer.
    """
    plugin = trainer.strategy.checkpoint_io
    if type(plugin) is AnomalibCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO(plugin.extra_safe_globals)


@contextmanager
def refuse_damaged(path: Any) -> Iterator[None]:
    """Refuse a checkpoint whose checksums are wrong, and say in one sentence why PyTorch cannot read another.

    Args:
        path (Any): Checkpoint.

    Yields:
        None: To read it.

    Raises:
        ValueError: If it is damaged or cannot be read.
    """
    advice = "give the file that training wrote, such as weights/lightning/model.ckpt."
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    msg = f"the checksum of {damaged} is wrong"
                    raise zipfile.BadZipFile(msg)
        yield
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        if isinstance(error, pickle.UnpicklingError):  # PyTorch's own advice is to run the code
            reason = "it holds something else than weights"
        msg = f"{path} is damaged, or is not a Lightning checkpoint ({reason}): {advice}"
        raise ValueError(msg) from error


# What PyTorch and zipfile raise on files that are no checkpoints.
UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    UnicodeDecodeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder cannot be written to
        return

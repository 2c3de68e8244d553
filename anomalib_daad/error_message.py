# SPDX-License-Identifier: Apache-2.0

"""What an error says in one line.

Example:
    >>> one_sentence(RuntimeError("Found 0 images in parts"))
    'Found 0 images in parts: put images there, or give another folder.'
"""

WHAT_TO_DO = {  # of messages of anomalib and Lightning that leave it open
    "No supported gpu backend found": "there is no GPU that PyTorch can use; leave --trainer.accelerator out",
    "Path does not exist": "give a folder that exists; data folders are below --data.root",
    "Found 0 ": "put images there, or give another folder",
    "Checkpoint file not found": "give a file that exists; training writes weights/lightning/model.ckpt",
}


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its kind.

    Args:
        error (BaseException): Error.

    Returns:
        str: One line.
    """
    return str(error).strip().split("\n")[0] or type(error).__name__


def one_sentence(error: BaseException) -> str:
    """Say an error of any length in one line, and what to do where it does not.

    Args:
        error (BaseException): Error. jsonargparse lists the reasons of a failed union, the class's own one last.

    Returns:
        str: The reason.
    """
    reasons = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
    said = " ".join((reasons or [str(error)])[-1].split()) or type(error).__name__
    advice = next((it for start, it in WHAT_TO_DO.items() if said.startswith(start)), None)
    return f"{said.rstrip('.!')}: {advice}." if advice else said

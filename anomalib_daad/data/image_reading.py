# SPDX-License-Identifier: Apache-2.0

"""One image file, read as training reads it, and right where anomalib would read it as white.

anomalib's inferencers open a path with a reader of their own, which clips gray images of more than 8 bits at 255. What
:func:`read_image` returns can be given to them in place of the path. Training refuses such files: it takes 8-bit copies
of them, made with the same ``white``.

Example:
    >>> inferencer.predict(read_image("part.tiff")).pred_score  # doctest: +SKIP
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalib_daad.error_message import first_line

from .image_check import BITS, is_deep_gray, is_garbled

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # of TIFF


def read_image(path: str | Path, white: float | None = None) -> np.ndarray:
    """Read an image for an inferencer's ``predict``.

    Orientation tags are not followed, as nowhere in anomalib; colours of 16 bits keep their high byte, as in training.

    Args:
        path (str | Path): Image file.
        white (float | None): Pixel that becomes 1 in gray files of more than 8 bits, such as 4095 for a camera of 12
            bits in files of 16; needed for files of 32 bits and of floats. Defaults to ``None``, the largest number
            that the file's bits can hold.

    Returns:
        np.ndarray: Image, shape ``(H, W, 3)``, float32, in [0, 1].

    Raises:
        ValueError: If the file cannot be read, has pixels outside [0, ``white``], stores white as 0, or needs a
            ``white`` or has no use for one.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # what Pillow raises on a bad file is not one family
        msg = f"{path} cannot be read: {first_line(error)}."
        raise ValueError(msg) from error
    tags: Any = getattr(image, "tag_v2", {})
    if is_garbled(image):
        msg = f"{path} has 16-bit colours in separate planes, which Pillow garbles; save it with interleaved ones."
    elif not is_deep_gray(image):
        if white is None:
            return np.asarray(image.convert("RGB"), np.float32) / 255
        msg = f"{path} is no gray image of more than 8 bits: read it without white, got {white}."
    elif tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        msg = f"{path} stores white as 0; save it with black as 0."
    elif white is None and not image.mode.startswith("I;"):
        msg = f"{path} has pixels of 32 bits, in which no number is known to be white: give white."
    else:
        pixels = np.asarray(image, np.float64)  # (H, W)
        white = white or 2 ** tags.get(BITS, (16,))[0] - 1
        if pixels.min() >= 0 and pixels.max() <= white:
            return np.repeat((pixels / white)[..., None], 3, axis=-1).astype(np.float32)
        msg = (
            f"{path} has pixels from {pixels.min():g} to {pixels.max():g}, expected 0 to {white:g}: give another white."
        )
    raise ValueError(msg)

# SPDX-License-Identifier: Apache-2.0

"""What all detectors do alike under Lightning; and callbacks for their trainers."""

from .compile_networks import CompileNetworks
from .ignore_mask import IgnoreMask
from .image_cache import ImageCache

__all__ = ["CompileNetworks", "IgnoreMask", "ImageCache"]

# SPDX-License-Identifier: Apache-2.0

"""What all detectors do alike under Lightning; and two callbacks for their trainers."""

from .compile_networks import CompileNetworks
from .image_cache import ImageCache

__all__ = ["CompileNetworks", "ImageCache"]

# SPDX-License-Identifier: Apache-2.0

"""8-bit quantisation of an OpenVINO model that leaves the memory alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nncf
    import openvino

CONVOLUTIONS = {"Convolution", "ConvolutionBackpropData"}


def quantize(model: "openvino.Model", images: "nncf.Dataset", num_scales: int) -> "openvino.Model":
    """Quantise the convolutions of the decoder and of the discriminator or the comparison alone.

    In 8 bits the memory would read other items, small errors would vanish, and so would what scores say of an image:
    the filters that compare and blur have one channel.

    Args:
        model (openvino.Model): A converted :class:`AnomalyNetwork`.
        images (nncf.Dataset): Images to calibrate on, as the model takes them.
        num_scales (int): Scales of the autoencoder.

    Returns:
        openvino.Model: Quantised model.
    """
    import nncf

    operations = model.get_ordered_ops()
    # All else depends on the encoder, so its convolutions come first.
    convolutions = [op for op in operations if op.get_type_name() in CONVOLUTIONS]
    filters = [op for op in convolutions if op.input(0).get_partial_shape()[1] == 1]
    ignored = nncf.IgnoredScope(
        names=[op.get_friendly_name() for op in [*convolutions[:num_scales], *filters]],
        types=sorted({op.get_type_name() for op in operations} - CONVOLUTIONS),
        validate=False,
    )
    return nncf.quantize(model, images, preset=nncf.QuantizationPreset.MIXED, ignored_scope=ignored)

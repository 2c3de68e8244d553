# SPDX-License-Identifier: Apache-2.0

"""Take a trained or exported model's thresholds anew from good images: ``anomalib-daad calibrate``."""

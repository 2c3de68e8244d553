# SPDX-License-Identifier: Apache-2.0

"""Judge images by a trained or exported model: ``anomalib-daad judge``."""

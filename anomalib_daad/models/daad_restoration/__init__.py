# SPDX-License-Identifier: Apache-2.0

"""The recommended detector: restoration training."""

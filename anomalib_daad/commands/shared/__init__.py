# SPDX-License-Identifier: Apache-2.0

"""What several commands use: pages, pictures, output folders."""

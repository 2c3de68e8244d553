# SPDX-License-Identifier: Apache-2.0

"""The paper's numbers, image AUROC: tables 2 to 5 of https://arxiv.org/abs/2107.13118."""

MNIST = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Means over the ten classes.
TABLE_2 = {"mnist": {"DAAD+": 0.990, "MemAE": 0.975}, "cifar10": {"DAAD+": 0.753, "MemAE": 0.609}}

TABLE_3_SYSTEMS = ("AE", "MemAE", "AE+Skip", "DAAD", "DAAD+")
_TABLE_3_ROWS = """
carpet      0.411 0.454 0.385 0.671 0.866
grid        0.841 0.946 0.879 0.975 0.957
leather     0.615 0.611 0.570 0.628 0.862
tile        0.696 0.630 0.986 0.825 0.882
wood        0.961 0.967 0.977 0.957 0.982
bottle      0.955 0.954 0.713 0.975 0.976
cable       0.688 0.694 0.579 0.720 0.844
capsule     0.819 0.831 0.747 0.866 0.767
hazelnut    0.884 0.891 0.828 0.893 0.921
metal_nut   0.565 0.537 0.336 0.552 0.758
pill        0.882 0.883 0.853 0.898 0.900
screw       0.956 0.992 1.000 1.000 0.987
toothbrush  0.977 0.972 0.742 0.989 0.992
transistor  0.776 0.793 0.749 0.814 0.876
zipper      0.878 0.871 0.696 0.906 0.859
"""
TABLE_3 = {
    category: dict(zip(TABLE_3_SYSTEMS, map(float, values), strict=True))
    for category, *values in map(str.split, _TABLE_3_ROWS.strip().splitlines())
}
TABLE_3_MEANS = dict(zip(TABLE_3_SYSTEMS, (0.794, 0.802, 0.736, 0.845, 0.895), strict=True))

# Means over the 15 categories by the division rate r_h = r_w.
TABLE_4 = {1: 0.716, 2: 0.784, 4: 0.821, 8: 0.845, 16: 0.813}

# Means over the 15 categories: generator, L_adv, L_ali, score.
TABLE_5 = {
    ("AE", False, False, "R"): 0.794,
    ("AE", True, False, "R"): 0.812,
    ("AE", True, True, "R"): 0.817,
    ("AE", True, True, "L"): 0.819,
    ("AE", True, True, "fused"): 0.835,
    ("MemAE", False, False, "R"): 0.802,
    ("MemAE", True, False, "R"): 0.825,
    ("MemAE", True, True, "R"): 0.835,
    ("MemAE", True, True, "L"): 0.841,
    ("MemAE", True, True, "fused"): 0.853,
    ("DAAD", False, False, "R"): 0.845,
    ("DAAD", True, False, "R"): 0.847,
    ("DAAD", True, True, "R"): 0.855,
    ("DAAD", True, True, "L"): 0.874,
    ("DAAD", True, True, "fused"): 0.895,
}

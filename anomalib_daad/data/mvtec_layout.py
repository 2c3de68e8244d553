# SPDX-License-Identifier: Apache-2.0

"""MVTec AD's layout of folders: CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/DEFECT."""

from pathlib import Path

MASK_FOLDERS = ("ground_truth", "masks", "mask")  # names of folders that hold masks in place of images


def find_categories(root: Path) -> list[str]:
    """List the categories of a root.

    Args:
        root (Path): Folder, which exists.

    Returns:
        list[str]: Their names, in order.
    """
    return sorted(path.name for path in root.iterdir() if (path / "train" / "good").is_dir())

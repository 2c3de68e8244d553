# SPDX-License-Identifier: Apache-2.0

"""The drawn products that changes of accuracy are judged on are always the same, and their defects are small."""

import cv2
import numpy as np
import pytest
from drawn_products import DEFECTS, PRODUCTS, DrawnProducts, draw_product


@pytest.mark.parametrize("category", PRODUCTS)
def test_products_are_always_the_same_and_defects_are_small_and_marked(category, tmp_path) -> None:
    for name in ("one", "other"):
        draw_product(tmp_path / name / category, category, num_train=2, num_good=1, num_defective=4)
    files = sorted(it.relative_to(tmp_path / "one") for it in (tmp_path / "one").rglob("*.png"))
    assert len(files) == 2 + 1 + 2 * 4
    assert all((tmp_path / "one" / it).read_bytes() == (tmp_path / "other" / it).read_bytes() for it in files)
    data = DrawnProducts(tmp_path / "one", category)
    data.setup()
    assert (len(data.train_data), len(data.test_data)) == (2, 5)
    for item in data.test_data:
        share = item.gt_mask.float().mean()
        assert (0 < share < 0.03) if item.gt_label else (share == 0)


def test_what_is_marked_is_what_changed() -> None:
    for number, draw in enumerate(PRODUCTS.values()):
        good, _, nothing = draw(np.random.default_rng(number), None)
        assert not nothing.any()
        faulty, ground, marked = draw(np.random.default_rng(number), DEFECTS[2])
        assert marked.any()
        assert good.shape == faulty.shape == (256, 256, 3)
        assert ground.mean() > 50
        apart = cv2.erode((marked == 0).astype(np.uint8), np.ones((9, 9))) > 0
        change = np.abs(good - faulty).mean(axis=2)  # noise and light of another draw are elsewhere, too
        assert change[marked > 0].mean() > 2 * change[apart].mean()

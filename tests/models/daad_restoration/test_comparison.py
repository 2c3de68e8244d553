# SPDX-License-Identifier: Apache-2.0

"""The learned comparison: what it sees, what it trains, and that it learns."""

import torch
from conftest import make_restoration
from references import draw, with_detail
from torch import nn

from anomalib_daad.models.daad_restoration.comparison import Comparison
from anomalib_daad.models.daad_restoration.corruption import corrupt


def test_the_comparison_does_not_train_the_autoencoder() -> None:
    model = make_restoration()
    output = model.model.train()(draw(4, (64, 64)))
    output.defects.sum().backward()
    assert all(weight.grad is None for weight in model.model.autoencoder.parameters())
    assert all(weight.grad is not None for weight in model.model.comparison.parameters())


def test_the_comparison_does_not_see_light() -> None:
    comparison = Comparison(num_scales=4).eval()
    images, rebuilt = draw(4, (32, 32)), draw(4, (32, 32))
    with torch.no_grad():
        expected = comparison(images, rebuilt)
        torch.testing.assert_close(comparison(images * 0.6 - 0.3, rebuilt * 0.6 - 0.3), expected, atol=1e-4, rtol=1e-4)
        assert comparison(images, rebuilt * 0.6).sub(expected).abs().max() > 1e-3  # but a difference of the two


def test_the_comparison_learns_to_find_differences() -> None:
    comparison = Comparison(num_scales=4)
    optimizer = torch.optim.Adam(comparison.parameters(), lr=1e-2)
    for _ in range(60):
        images = draw(8, (32, 32))
        corrupted, masks = corrupt(images)
        loss = nn.functional.binary_cross_entropy_with_logits(comparison(corrupted, images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    corrupted, masks = corrupt(images, share=1.0)
    with torch.no_grad():
        logits = comparison.eval()(corrupted, images)
    assert logits[masks == 1].mean() > logits[masks == 0].mean() + 1.5


def test_the_comparison_does_not_look_at_detail() -> None:
    comparison = Comparison(4).eval()
    images, reconstructions = with_detail(), with_detail().roll(1, 0)
    seen = comparison(images[:, :3], reconstructions[:, :3])
    assert torch.equal(comparison(images, reconstructions), seen)


def test_the_comparison_is_as_sure_in_a_corner_as_inside() -> None:
    """All weights agree, so that every term that is missing at a border is missed."""
    torch.manual_seed(0)
    comparison = Comparison(4).eval()
    image = torch.tensor([0.3, -0.2, 0.5])[None, :, None, None].expand(1, 3, 64, 64)
    with torch.no_grad():
        for weight in comparison.parameters():
            weight.abs_()
        cells = comparison(image, 0.5 * image)[0, 0].unflatten(0, (4, 16)).unflatten(2, (4, 16)).mean(dim=(1, 3))
    torch.testing.assert_close(cells, cells[1, 1].expand_as(cells), rtol=0.02, atol=0)

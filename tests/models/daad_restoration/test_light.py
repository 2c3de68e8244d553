# SPDX-License-Identifier: Apache-2.0

"""Light of images and of their detail: more or less of it is restored as it is."""

import numpy as np
import pytest
import torch
from conftest import make_restoration
from references import with_detail

from anomalib_daad.models.daad_restoration.light import MIN_CONTRAST, MIN_DETAIL_CONTRAST, light


def test_light_of_colours_and_of_detail() -> None:
    images = with_detail()
    images[1, 3] = 0.1
    images[2] *= 1e-4
    mean, contrast = light(images)
    for image, its_mean, its_contrast in zip(images.numpy(), mean.numpy(), contrast.numpy(), strict=True):
        colours, detail = image[:3], image[3]
        expected = [(colours.mean(), max(colours.std(), MIN_CONTRAST))] * 3
        expected.append((detail.mean(), max(detail.std(), MIN_DETAIL_CONTRAST)))
        np.testing.assert_allclose(np.stack([its_mean, its_contrast], axis=1)[..., 0, 0], expected, atol=1e-5)


def test_light_of_colours_alone() -> None:
    images = with_detail()[:, :3]
    for image, mean, contrast in zip(images.numpy(), *light(images), strict=True):
        assert (mean.item(), contrast.item()) == (pytest.approx(image.mean(), abs=1e-6), pytest.approx(image.std()))


def test_what_is_taken_is_given_back() -> None:
    images = with_detail()
    images[2] *= 1e-4
    own = light(images)
    taken = own.take(images)
    for one in (taken[[0, 1, 3], :3].flatten(1), taken[[0, 1, 3], 3:].flatten(1)):
        torch.testing.assert_close(one.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(one.std(dim=1, correction=0), torch.full((3,), 0.4))
    torch.testing.assert_close(own.give(taken), images, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(own.scale, own.contrast / 0.4)
    assert own.take(images.bfloat16()).dtype == torch.bfloat16


# In the network.


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_more_or_less_light_is_restored_as_it_is(mode) -> None:
    network = getattr(make_restoration().model, mode)()
    images = with_detail()
    gain, bias = (
        torch.tensor([0.3, 0.8, 1.0, 1.5]).view(4, 1, 1, 1),
        torch.tensor([0.5, -0.2, 0.3, 0.0]).view(4, 1, 1, 1),
    )
    with torch.no_grad():
        expected = network.restore(images) * gain + bias
        torch.testing.assert_close(network.restore(images * gain + bias), expected, atol=1e-4, rtol=1e-4)
        restored = network.restore_and_compare(images * gain + bias).restorations
        torch.testing.assert_close(restored, expected, atol=1e-4, rtol=1e-4)


def test_the_autoencoder_sees_images_of_equal_mean_and_contrast() -> None:
    network = make_restoration().model.eval()
    images, seen = with_detail() * 0.5 - 0.3, []
    network.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.autoencoder.decoder.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        restored = network.restore(images)
    entered, decoded = seen
    for image, x, y, result in zip(*(t.double().numpy() for t in (images, entered, decoded, restored)), strict=True):
        for channels in (slice(0, 3), slice(3, 4)):
            assert x[channels].mean() == pytest.approx(0, abs=1e-5)
            assert x[channels].std() == pytest.approx(0.4, abs=1e-5)
            expected = y[channels] / 0.4 * image[channels].std() + image[channels].mean()
            np.testing.assert_allclose(result[channels], expected, atol=1e-5)


def test_bright_points_are_not_cut_off() -> None:
    network = make_restoration().model.eval()
    network.autoencoder.decoder.scales[-1][0].weight.data *= 1000
    with torch.no_grad():
        restored = network.restore(with_detail())
    assert restored[:, :3].abs().max() > 10  # tanh would give 1 / 0.4 standard deviations at most


def test_noise_of_flat_images_is_not_blown_up() -> None:
    network, seen = make_restoration().model.eval(), []
    network.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    flat = torch.full((2, 4, 32, 32), 0.25)
    flat[1] += 1e-4 * torch.randn(4, 32, 32)
    with torch.no_grad():
        assert network.restore(flat).isfinite().all()
    assert seen[0].abs().max() < 0.02

# SPDX-License-Identifier: Apache-2.0

"""Random numbers: repeatable by a seed, epoch by epoch, and flips of each image."""

import pytest
import torch
from anomalib.data import MVTecAD
from conftest import assert_same_weights, make_model, weights

from anomalib_daad.training.randomness import random_flips, seeded


def test_same_seed_same_weights_and_another_seed_others(make_datamodule, make_engine) -> None:
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)  # the global state must not matter
        model = make_model(seed=seed)
        torch.rand(noise)
        make_engine(max_epochs=2).fit(model, datamodule=make_datamodule())
        runs.append(weights(model))
    assert_same_weights(runs[0], runs[1])
    assert not torch.equal(runs[0]["autoencoder.memories.0.items"], runs[2]["autoencoder.memories.0.items"])


def test_a_seed_leaves_the_global_random_state_alone_in_the_constructor() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_model(seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_equals_an_uninterrupted_one(make_datamodule, make_engine, num_workers) -> None:
    def make_datamodule_() -> MVTecAD:
        torch.rand(next(noise))  # the global random state must not matter
        return make_datamodule(num_workers=num_workers)

    noise = iter(range(3))
    whole = make_model()
    make_engine(max_epochs=4).fit(whole, datamodule=make_datamodule_())

    half = make_model()
    engine = make_engine(max_epochs=2)
    engine.fit(half, datamodule=make_datamodule_())
    path = engine.trainer.checkpoint_callback.best_model_path
    states = torch.load(path, weights_only=True)["optimizer_states"]
    assert len(states) == 2
    assert all(entry["step"] == 6 for state in states for entry in state["state"].values())

    resumed = make_model()
    make_engine(max_epochs=4).fit(resumed, datamodule=make_datamodule_(), ckpt_path=path)
    assert_same_weights(weights(whole), weights(resumed))


def test_each_image_is_flipped_on_its_own() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    flipped = random_flips(image.expand(400, -1, -1, -1))
    variants = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    counts = [int((flipped == variant).all(dim=(1, 2, 3)).sum()) for variant in variants]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_without_a_seed_the_global_random_state_goes_on() -> None:
    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    with seeded(None):
        first = torch.rand(3)
    torch.testing.assert_close(torch.cat([first, torch.rand(3)]), expected, rtol=0, atol=0)

# SPDX-License-Identifier: Apache-2.0

"""Bad input gets one clear sentence."""

import pytest
from anomalib.pre_processing import PreProcessor
from conftest import make_model, make_restoration
from lightning.pytorch.callbacks import BatchSizeFinder
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_daad import Daad, DaadRestoration, MemAe, Mnad

SIZED = {Daad: {"division_rates": (2, 2, 1)}, DaadRestoration: {"downscale": 2}, MemAe: {}, Mnad: {}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (100, 100)}, ["100x100", "divisible by 32x32", "image_size"]),
        ({"division_rates": (3, 2, 1)}, ["32x32", "(3, 2)"]),
        ({"gamma": 1.01}, ["gamma", "[0, 1]", "1.01"]),
        ({"num_items": 0}, ["num_items", "at least 1"]),
        ({"learning_rate": 0.0}, ["learning_rate", "positive"]),
        ({"lambdas": (-1.0, 0.5, 0.5)}, ["lambdas", "rec", "(-1.0, 0.5, 0.5)"]),
        ({"lambdas": (50.0, 0.5)}, ["lambdas", "three", "(50.0, 0.5)"]),
        ({"connections": "unet"}, ["bottleneck_memory", "unet"]),
        ({"base_channels": 0}, ["base_channels", "at least 1"]),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        make_model(**arguments)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (100, 256), "downscale": 4}, ["100x256", "64x64", "16 times downscale 4", "64x256 or 128x256"]),
        ({"downscale": 3}, ["(2, 4, 8)", "got 3"]),
        ({"base_channels": 0}, ["base_channels", "at least 1"]),
        ({"placement_radius": -1}, ["placement_radius", "-1"]),
        ({"learning_rate": -1e-3}, ["learning_rate", "positive", "-0.001"]),
    ],
)
def test_bad_arguments_of_restoration_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        make_restoration(**arguments)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "arguments",
    [
        {"restoration": True},
        {"score": "maxima"},
        {"comparison_channels": 16},
        {"standardize": True},
        {"standardize_maps": True},
        {"error_map": True},
        {"placement_radius": 2},
        {"downscale": 4},
        {"random_shift": 2},
        {"optimizer": "muon"},
        {"restoration": True, "image_size": (256, 256), "downscale": 4, "temperature": 0.1},
    ],
    ids=str,
)
def test_arguments_of_restoration_say_where_they_went(arguments) -> None:
    with pytest.raises(ValueError, match=r"^Daad takes no \w+: .*DaadRestoration.*\.$") as error:
        Daad(**arguments)
    assert "\n" not in str(error.value)
    (name,) = {name for name in arguments if f"takes no {name}:" in str(error.value)}
    assert name != "image_size"


@pytest.mark.parametrize("build", [make_model, make_restoration], ids=["Daad", "DaadRestoration"])
def test_images_of_another_normalisation_are_refused(build, make_datamodule, make_engine) -> None:
    """ImageNet's, which pretrained models want, is taken by mistake."""
    own = build()
    imagenet = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    other = build(pre_processor=PreProcessor(Compose([Resize(own.model.image_size, antialias=True), imagenet])))
    name = type(own).__name__
    with pytest.raises(ValueError, match=rf"from -?[\d.]+ to 1\.\d after the pre-processor; {name} rebuilds \[-1, 1\]"):
        make_engine(max_epochs=1).fit(other, datamodule=make_datamodule())


def test_a_batch_size_can_be_searched_for(make_datamodule, make_engine) -> None:
    """Lightning's finder trains before a model's own start of a training."""
    finder = BatchSizeFinder(max_trials=1, batch_arg_name="train_batch_size")
    model = make_model()
    make_engine(max_epochs=1, callbacks=[finder]).fit(model, datamodule=make_datamodule())
    assert model.model.score.reconstruction_range.isfinite().all()


@pytest.mark.parametrize("kind", [Daad, DaadRestoration])
def test_an_argument_that_nobody_knows_is_an_error_of_python(kind) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sharpness'"):
        kind(sharpness=1)


@pytest.mark.parametrize("kind", [Daad, DaadRestoration, MemAe, Mnad])
def test_pre_processor_of_another_size(kind, make_datamodule, make_engine) -> None:
    pre_processor = Daad.configure_pre_processor((96, 96))
    model = kind(image_size=(64, 64), base_channels=4, pre_processor=pre_processor, **SIZED[kind])
    engine = make_engine(max_epochs=1, limit_val_batches=0)  # nothing but a training step sees the images
    with pytest.raises(ValueError, match=r"3, 64, 64.*3, 96, 96.*image_size"):
        engine.fit(model, datamodule=make_datamodule())

# SPDX-License-Identifier: Apache-2.0

"""One table of properties, held against every system of the plugin and every runtime that predicts.

A property is a function; its docstring says what must hold. Those of ``OF_A_RUNTIME`` see only images and predictions,
those of ``OF_A_SYSTEM`` the model itself.
"""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from conftest import SMALL, make_restoration

from anomalib_daad import MODELS, Daad, DaadRestoration, MemAe, Mnad
from anomalib_daad.commands.reproduce.systems import SYSTEMS
from anomalib_daad.components.distance import sample_distance
from anomalib_daad.models.daad_restoration.difference_maps import colour_error, relative_error
from anomalib_daad.models.memae.torch_model import mean_square
from anomalib_daad.models.mnad.torch_model import negative_psnr

EXPORTED = ["DAAD", "MNAD", "MemAE, its code"]  # an export takes seconds; DAAD+ and restoration: test_exporting.py
RESTORATION = "Restoration"  # which is no system of the paper
DISTANCES = {Daad: sample_distance, MemAe: mean_square, Mnad: negative_psnr}
TOLERANCE = 1e-4


class Predictions(NamedTuple):
    """Of a batch: scores and labels ``(B,)``, maps and masks ``(B, 1, H, W)``."""

    score: np.ndarray
    label: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray

    def at(self, index) -> "Predictions":
        return Predictions(*(part[index] for part in self))


def predictions(batch) -> Predictions:
    count = len(np.asarray(batch.anomaly_map))
    parts = (np.asarray(part) for part in (batch.pred_score, batch.pred_label, batch.anomaly_map, batch.pred_mask))
    score, label, anomaly_map, mask = parts
    return Predictions(score.reshape(count), label.reshape(count), anomaly_map, mask)


def assert_alike(found: Predictions, expected: Predictions) -> None:
    np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.anomaly_map.squeeze(), expected.anomaly_map.squeeze(), rtol=0, atol=1e-3)
    is_clear = np.abs(expected.score - 0.5) > TOLERANCE  # the image that set the threshold lies on it
    assert np.array_equal(found.label[is_clear], expected.label[is_clear])


# --- what every runtime must hold ---------------------------------------------------------------------------------


def is_calibrated_as_the_model(predict, images, expected) -> None:
    """Ranges and thresholds travel: scores, maps and labels are those of the trained model."""
    assert_alike(predict(images), expected)


def batch_size_does_not_matter(predict, images, expected) -> None:
    """Every image alone, in pairs and all at once."""
    for size in (1, 2):
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            assert_alike(predict(images[part]), expected.at(part))


def order_does_not_matter(predict, images, expected) -> None:
    """A reversed batch gives reversed predictions."""
    assert_alike(predict(images.flip(0)), expected.at(slice(None, None, -1)))


def neighbours_do_not_matter(predict, images, expected) -> None:
    """A subset, with one image twice, among white ones."""
    chosen = [4, 1, 1]
    among = torch.cat([images[chosen], torch.ones_like(images[:2])])
    assert_alike(predict(among).at(slice(0, 3)), expected.at(chosen))


def threads_do_not_matter(predict, images, expected) -> None:
    """Four threads at once score as one."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: predict(image[None]), images.repeat(3, 1, 1, 1)))
    for index, prediction in enumerate(found):
        assert_alike(prediction, expected.at([index % len(images)]))


def the_same_again_is_identical(predict, images, expected) -> None:
    """A prediction leaves no trace."""
    del expected
    for first, second in zip(predict(images), predict(images), strict=True):
        assert np.array_equal(first, second)


def finite_images_have_finite_scores(predict, images, expected) -> None:
    """Black, white, stripes, one hot pixel, and stripes far more than white."""
    del expected
    odd = torch.zeros(5, *images.shape[1:])
    odd[1] = 1
    odd[2, :, ::2] = 1
    odd[3, :, 5, 5] = 1
    odd[4] = 1e4 * odd[2]  # stripes: a structural score does not see brightness
    found = predict(odd)
    assert np.isfinite(found.score).all()
    assert np.isfinite(found.anomaly_map).all()
    assert found.label[4]


def not_finite_is_never_normal(predict, images, expected) -> None:
    """NaN and infinite pixels give score 1 and the label anomalous, and leave the rest of the batch alone."""
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = images.clone()
        spoilt[2, 1, 7, 7] = value
        found = predict(spoilt)
        assert found.score[2] == 1
        assert found.label[2]
        assert found.mask[2].any()
        assert_alike(found.at([0, 1, 3]), expected.at([0, 1, 3]))


OF_A_RUNTIME: list[Callable] = [
    is_calibrated_as_the_model,
    batch_size_does_not_matter,
    order_does_not_matter,
    neighbours_do_not_matter,
    threads_do_not_matter,
    the_same_again_is_identical,
    finite_images_have_finite_scores,
    not_finite_is_never_normal,
]


# --- what every system must hold ----------------------------------------------------------------------------------


def copies_are_identical(trained, images, expected) -> None:
    """A deep copy, a pickle, and a new model with the state of the trained one."""
    module = trained.module
    new = build(trained.name, seed=7)
    new.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), new.eval()):
        assert np.array_equal(predictions(twin(images)).score, expected.score)
    network = pickle.loads(pickle.dumps(module.model))
    assert torch.equal(network(images_of(module, images)).pred_score, raw_scores(module, images))


def training_again_gives_the_same_weights(trained, images, expected) -> None:
    """A second fit with the same seed, in the same process."""
    del images, expected
    again = trained.fit().module.state_dict()
    for name, value in trained.module.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0, equal_nan=True)


def autocast_does_not_change_scores(trained, images, expected) -> None:
    """In bfloat16 and float16 autocast scores are computed in float32 all the same."""
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert np.array_equal(predictions(trained.module(images)).score, expected.score)


def more_defect_never_lowers_r(trained, images, expected) -> None:
    """On a fixed reconstruction R grows with the strength of a defect and with its area.

    Of restorations the strongest differences are scored, not their sum.
    """
    del expected
    network = trained.module.model
    if isinstance(trained.module, DaadRestoration):
        return
    originals = images_of(trained.module, images)

    def score(changed: torch.Tensor) -> torch.Tensor:
        return network.score(DISTANCES[type(trained.module)](changed, originals), None)

    strengths = torch.stack([score(originals + strength) for strength in torch.linspace(0, 2, 9)])
    areas = []
    for side in range(0, 33, 4):
        changed = originals.clone()
        changed[:, :, :side, :side] += 0.5
        areas.append(score(changed))
    assert (strengths.diff(dim=0) > 0).all()
    assert (torch.stack(areas).diff(dim=0) > 0).all()


def flips_flip_the_map(trained, images, expected) -> None:
    """On a fixed reconstruction: the networks themselves are not symmetric, the comparison is."""
    del expected
    network = trained.module.model
    originals = images_of(trained.module, images)
    reconstructions = originals.roll(1, 0)

    def differ(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        if not isinstance(trained.module, DaadRestoration):
            return network.error_map(images, reconstructions)
        seen, restored = network.detail(images), network.detail(reconstructions)
        return network.blur(
            torch.cat([make(seen, restored) for make in (network.structure, relative_error, colour_error)], dim=1)
        )

    flat = differ(originals, reconstructions)
    for dim in (-1, -2):
        flipped = differ(originals.flip(dim), reconstructions.flip(dim))
        torch.testing.assert_close(flipped, flat.flip(dim))


def devices_agree(trained, images, expected) -> None:
    """A GPU, where there is one, scores as the CPU."""
    if torch.cuda.is_available():
        found = copy.deepcopy(trained.module).cuda()(images.cuda())
        np.testing.assert_allclose(found.pred_score.cpu(), expected.score, rtol=0, atol=1e-3)


OF_A_SYSTEM: list[Callable] = [
    copies_are_identical,
    training_again_gives_the_same_weights,
    autocast_does_not_change_scores,
    more_defect_never_lowers_r,
    flips_flip_the_map,
    devices_agree,
]


# --- systems and runtimes -----------------------------------------------------------------------------------------


def arguments_of(name: str) -> dict:
    """Arguments at 32x32 pixels, where all divisions finer than (2, 2, 1) become it."""
    arguments = {**SMALL, "visualizer": False, **SYSTEMS[name].arguments}
    if arguments.get("num_items"):
        arguments["num_items"] = SMALL["num_items"]
    if SYSTEMS[name].model != "Daad":
        del arguments["division_rates"]
    elif arguments["division_rates"] is not None:
        arguments["division_rates"] = (*(min(rate, 2) for rate in arguments["division_rates"][:2]), 1)
    return arguments


def build(name: str, seed: int = 0) -> Daad | DaadRestoration | MemAe | Mnad:
    if name == RESTORATION:
        return make_restoration(visualizer=False, seed=seed)
    return MODELS[SYSTEMS[name].model](**{**arguments_of(name), "seed": seed})


def what_differs(name: str) -> str:
    arguments = arguments_of(name)
    return str((SYSTEMS[name].model, {**arguments, "lambdas": None}))


# Systems that differ in a weight of the loss, or in divisions that are the same here, are one system here.
DISTINCT = [*{what_differs(name): name for name in reversed(SYSTEMS)}.values(), RESTORATION]


def images_of(module, images: torch.Tensor) -> torch.Tensor:
    return module.pre_processor(images)


def raw_scores(module, images: torch.Tensor) -> torch.Tensor:
    return module.model(images_of(module, images)).pred_score


@pytest.fixture(scope="module", params=DISTINCT)
def trained(request, data_root, tmp_path_factory) -> SimpleNamespace:
    """A system after one epoch, and how to train it again."""

    def fit() -> SimpleNamespace:
        datamodule = MVTecAD(data_root, "part", train_batch_size=8, eval_batch_size=12, num_workers=0)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
        engine = Engine(default_root_dir=tmp_path_factory.mktemp("results"), max_epochs=1, **quiet)
        module = build(request.param)
        engine.fit(module, datamodule=datamodule)
        checkpoint = engine.trainer.checkpoint_callback.best_model_path
        return SimpleNamespace(module=module.eval(), checkpoint=checkpoint, engine=engine)

    first = fit()
    return SimpleNamespace(name=request.param, fit=fit, **vars(first))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Not of the model's size."""
    return torch.rand(6, 3, 40, 48, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def expected(trained, images) -> Predictions:
    return predictions(trained.module(images))


def eager(trained, folder) -> Callable:
    del folder
    return lambda images: predictions(trained.module(images))


def reloaded(trained, folder) -> Callable:
    del folder
    module = type(trained.module).load_from_checkpoint(trained.checkpoint, map_location="cpu").eval()
    return lambda images: predictions(module(images))


def torch_inferencer(trained, folder) -> Callable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUST_REMOTE_CODE", "1")
        inferencer = TorchInferencer(trained.module.to_torch(folder), device="cpu")
    return lambda images: predictions(inferencer.predict(images))


def onnx(trained, folder) -> Callable:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(trained.module.to_onnx(folder)))
    names, (given,) = [output.name for output in session.get_outputs()], session.get_inputs()

    def predict(images: torch.Tensor) -> Predictions:
        outputs = session.run(None, {given.name: images.numpy()})
        return predictions(SimpleNamespace(**dict(zip(names, outputs, strict=True))))

    return predict


def openvino(trained, folder) -> Callable:
    """Of the file that ``onnx`` wrote; an inference request of its own for every call, as threads need."""
    del trained
    runtime = pytest.importorskip("openvino")
    (path,) = folder.rglob("*.onnx")
    compiled = runtime.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict(images: torch.Tensor) -> Predictions:
        outputs = compiled.create_infer_request().infer(images.numpy()).to_dict()
        return predictions(SimpleNamespace(**{key.any_name: value for key, value in outputs.items()}))

    return predict


def test_properties_of_the_system(trained, images, expected) -> None:
    for holds in OF_A_SYSTEM:
        holds(trained, images, expected)


def test_properties_of_its_runtimes(trained, images, expected, tmp_path) -> None:
    runtimes = [eager, reloaded, torch_inferencer, *([onnx, openvino] if trained.name in EXPORTED else [])]
    for runtime in runtimes:
        predict = runtime(trained, tmp_path)
        for holds in OF_A_RUNTIME:
            holds(predict, images, expected)

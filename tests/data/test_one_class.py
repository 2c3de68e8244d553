# SPDX-License-Identifier: Apache-2.0

"""One-class MNIST and CIFAR-10: the protocol's counts, the same images from every source, anomalib's engine."""

import os
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from conftest import make_model
from PIL import Image
from sklearn.metrics import roc_auc_score
from torchvision.datasets import CIFAR10
from torchvision.transforms.v2 import Resize

from anomalib_daad import OneClassCIFAR10, OneClassMNIST
from anomalib_daad.training.image_cache import CachedDataset, cache_images

CONFIG = Path(__file__).parents[2] / "configs" / "one_class_mnist.yaml"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_TRAIN, NUM_TEST = 60, 40  # 6 and 4 of each class


def draw(count, *shape) -> tuple[np.ndarray, np.ndarray]:
    """Random images and mixed labels, each class as often."""
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.permutation(np.arange(count, dtype=np.uint8) % 10)


DIGITS = {"train": draw(NUM_TRAIN, 28, 28), "test": draw(NUM_TEST, 28, 28)}
PICTURES = {"train": draw(NUM_TRAIN, 32, 32, 3), "test": draw(NUM_TEST, 32, 32, 3)}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch) -> None:
    def refuse(*_, **__) -> None:
        msg = "no network"
        raise URLError(msg)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


@pytest.fixture
def npz(tmp_path) -> Path:
    """Digits as in Keras' file."""
    arrays = {f"{key}_{split}": value for split, pair in DIGITS.items() for key, value in zip("xy", pair, strict=True)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    return tmp_path / "mnist.npz"


@pytest.fixture
def idx(tmp_path) -> Path:
    """The same digits in the raw files that torchvision reads."""
    raw = tmp_path / "idx" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, (images, labels) in DIGITS.items():
        prefix = {"train": "train", "test": "t10k"}[split]
        header = struct.pack(">4I", 0x803, *images.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + labels.tobytes())
    return tmp_path / "idx"


@pytest.fixture
def batches(tmp_path, monkeypatch) -> Path:
    """Pictures in the pickled batches that torchvision reads."""
    folder = tmp_path / "batches" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, split in (("data_batch_1", "train"), ("test_batch", "test")):
        images, labels = PICTURES[split]
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    return tmp_path / "batches"


@pytest.fixture
def folder(tmp_path) -> Path:
    """The same pictures as files."""
    for split, (images, labels) in PICTURES.items():
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "folder" / split / CLASSES[label] / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path / "folder"


def set_up(kind, root, **arguments):
    datamodule = kind(root, **arguments)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def read(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels, in the order of the numbers in their names."""
    items = sorted(dataset, key=lambda item: int(Path(item.image_path).stem[:5].split("_")[0]))
    return torch.stack([item.image for item in items]), torch.stack([item.gt_label for item in items])


@pytest.mark.parametrize(
    ("kind", "source", "arrays"),
    [
        (OneClassMNIST, "npz", DIGITS),
        (OneClassMNIST, "idx", DIGITS),
        (OneClassCIFAR10, "batches", PICTURES),
        (OneClassCIFAR10, "folder", PICTURES),
    ],
)
def test_every_source_gives_the_protocol(request, kind, source, arrays) -> None:
    datamodule = set_up(kind, request.getfixturevalue(source), normal_class=3)
    for split, dataset in (("train", datamodule.train_data), ("test", datamodule.test_data)):
        images, labels = arrays[split]
        kept = labels == 3 if split == "train" else np.full(len(labels), True)
        expected = np.stack([np.array(Image.fromarray(image).convert("RGB")) for image in images[kept]])
        actual, anomalous = read(dataset)
        assert actual.dtype == torch.float32
        assert torch.allclose(actual, torch.from_numpy(expected).permute(0, 3, 1, 2) / 255, atol=1e-7)
        assert anomalous.tolist() == (labels[kept] != 3).tolist()
        assert dataset.samples.image_path.is_unique
        assert (dataset.samples.label == datamodule.category).tolist() == (dataset.samples.label_index == 0).tolist()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (6, NUM_TEST)


def test_names_tell_the_class_and_keep_the_official_order(npz) -> None:
    datamodule = set_up(OneClassMNIST, npz, normal_class=8)
    labels = DIGITS["test"][1]
    expected = [f"OneClassMNIST/test/{index:05d}_{label}" for index, label in enumerate(labels)]
    assert datamodule.test_data.samples.image_path.tolist() == expected


def test_training_does_not_hold_the_other_classes(npz) -> None:
    for image in set_up(OneClassMNIST, npz).train_data.samples.image:
        assert image.base is None or image.base.nbytes == image.nbytes


@pytest.mark.parametrize(("name", "index"), [("airplane", 0), ("dog", 5), ("truck", 9)])
def test_class_by_name(batches, name, index) -> None:
    tables = [set_up(OneClassCIFAR10, batches, normal_class=one).test_data.samples for one in (name, index)]
    assert tables[0].label_index.tolist() == tables[1].label_index.tolist()
    assert tables[0].label_index.tolist() == (PICTURES["test"][1] != index).astype(int).tolist()


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        ("same_as_test", (6, 40, 40)),
        ("from_test", (6, 20, 20)),
        ("from_train", (3, 3, 40)),
        ("none", (6, None, 40)),
    ],
)
def test_validation_splits(npz, mode, counts) -> None:
    datamodule = set_up(OneClassMNIST, npz, normal_class=2, val_split_mode=mode, seed=0)
    subsets = [getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test")]
    assert tuple(None if subset is None else len(subset) for subset in subsets) == counts
    for subset in subsets:
        for item in subset or []:
            split, number = Path(item.image_path).parts[-2:]
            image = DIGITS[split][0][int(number[:5])] / np.float32(255)
            assert np.allclose(item.image, image)
            assert bool(item.gt_label) == (not number.endswith("_2"))
    if mode in {"from_test", "from_train"}:
        held_out = subsets[2] if mode == "from_test" else subsets[0]
        assert not set(subsets[1].samples.image_path) & set(held_out.samples.image_path)


def test_official_counts_of_mnist() -> None:
    root = Path(os.environ.get("ANOMALIB_DAAD_DATA", "")) / "mnist.npz"
    if not root.is_file():
        pytest.skip("set ANOMALIB_DAAD_DATA to a folder that holds mnist.npz to run this test on MNIST")
    datamodule = set_up(OneClassMNIST, root, normal_class=8)
    assert len(datamodule.train_data) == 5851
    labels = datamodule.test_data.samples.label_index
    assert (len(labels), int((labels == 0).sum())) == (10_000, 974)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_images_are_cached(npz, num_workers) -> None:
    datamodule = set_up(OneClassMNIST, npz, train_batch_size=4, num_workers=num_workers)
    datamodule.train_data.augmentations = Resize((32, 32))
    loader = datamodule.train_dataloader()
    (cached,) = cache_images([loader], max_bytes=6 * 3 * 32 * 32 * 4 + 6)
    assert isinstance(cached.dataset, CachedDataset)
    assert cache_images([loader], max_bytes=6 * 3 * 32 * 32 * 4) == [loader]
    for _ in range(2):
        torch.manual_seed(1)
        expected = list(loader)
        torch.manual_seed(1)
        for batch, other in zip(expected, cached, strict=True):
            assert batch.image.shape[1:] == (3, 32, 32)
            assert torch.equal(batch.image, other.image)
            assert batch.image_path == other.image_path


def test_recipe_trains_tests_and_predicts(npz, tmp_path) -> None:
    overrides = [
        *("--data.root", str(npz), "--data.normal_class", "4", "--data.eval_batch_size", "16"),
        *("--model.num_items", "5", "--model.base_channels", "4"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"),
        *("--trainer.enable_progress_bar", "false", "--default_root_dir", str(tmp_path / "results")),
    ]
    cli = AnomalibCLI(["fit", "--config", str(CONFIG), *overrides], run=False)
    assert isinstance(cli.datamodule, OneClassMNIST)
    assert cli.model.model.image_size == (32, 32)
    assert len(cli.model.model.autoencoder.memories) == 3
    assert not cli.model.flips
    before = {name: value.clone() for name, value in cli.model.model.named_parameters()}
    (metrics,) = cli.engine.train(cli.model, datamodule=cli.datamodule)
    assert all(not torch.equal(value, before[name]) for name, value in cli.model.model.named_parameters())
    assert cli.engine.trainer.global_step == 1
    predictions = cli.engine.predict(cli.model, datamodule=cli.datamodule)
    paths = [path for batch in predictions for path in batch.image_path]
    assert len(set(paths)) == len(paths) == NUM_TEST
    scores = torch.cat([batch.pred_score for batch in predictions]).float()
    anomalous = [not path.endswith("_4") for path in paths]
    assert torch.cat([batch.gt_label for batch in predictions]).tolist() == anomalous
    assert predictions[0].image.shape == (16, 3, 32, 32)
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-6)
    assert not any(name.startswith("pixel") for name in metrics)
    assert cli.engine.trainer.checkpoint_callback.best_model_path.startswith(
        str(tmp_path / "results/Daad/OneClassMNIST/4")
    )


def test_short_name_and_class_name_on_the_command_line() -> None:
    arguments = ["--data", "OneClassCIFAR10", "--data.normal_class", "cat", "--data.root", "pictures"]
    model = ["--model", "Daad", "--model.image_size", "[32, 32]", "--model.division_rates", "[2, 2, 1]"]
    datamodule = AnomalibCLI(["train", *model, *arguments], run=False).datamodule
    assert (datamodule.normal_class, datamodule.category, datamodule.root) == (3, "cat", Path("pictures"))


def test_images_in_memory_refuse_what_needs_files(npz, batches, make_engine) -> None:
    for datamodule in (OneClassMNIST(npz), OneClassCIFAR10(batches)):
        with pytest.raises(ValueError, match=r"no image files.*--model.visualizer false"):
            make_engine(max_epochs=1).fit(make_model(), datamodule=datamodule)
    for split in ("val_split_mode", "test_split_mode"):
        with pytest.raises(ValueError, match=r"no image files to make synthetic anomalies"):
            set_up(OneClassMNIST, npz, **{split: "synthetic"})


def test_image_files_can_be_drawn_on_and_made_anomalous(folder, make_engine, tmp_path) -> None:
    datamodule = OneClassCIFAR10(folder, val_split_mode="synthetic", normal_class="frog", train_batch_size=2)
    make_engine(max_epochs=1).train(make_model(), datamodule=datamodule)
    assert sorted(datamodule.val_data.samples.label_index) == [0, 0, 1]
    assert len(list((tmp_path / "results").rglob("images/**/*.png"))) == NUM_TEST


@pytest.mark.parametrize("wrong", [10, -1, "lion"])
@pytest.mark.parametrize("kind", [OneClassMNIST, OneClassCIFAR10])
def test_unknown_class(kind, wrong) -> None:
    with pytest.raises(ValueError, match=rf"^normal_class must be 0 to 9 or one of .*, got {wrong!r}\.$"):
        kind(normal_class=wrong)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": DIGITS["train"][0]}, "x_train and y_train cannot be read"),
        ({"x_train": DIGITS["train"][0], "y_train": np.zeros((60, 1))}, r"\(60, 28, 28\), uint8, and \(60, 1\)"),
        ({"x_train": np.zeros((60, 784)), "y_train": np.zeros(60)}, r"\(60, 784\), float64, and \(60,\)"),
        ({"x_train": DIGITS["train"][0], "y_train": np.full(60, 1)}, "no train images of class 0, which shall be"),
        ({"x_train": DIGITS["train"][0], "y_train": np.arange(60)}, "must be 0 to 9, got 0 to 59"),
    ],
)
def test_wrong_npz(tmp_path, arrays, words) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match=words) as error:
        set_up(OneClassMNIST, tmp_path / "wrong.npz")
    assert "wrong.npz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_file_that_is_no_npz(tmp_path, content) -> None:
    (tmp_path / "wrong.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong.npz is no MNIST: it must be an .npz file"):
        set_up(OneClassMNIST, tmp_path / "wrong.npz")


def test_missing_root(tmp_path) -> None:
    for kind, root, words in (
        (OneClassMNIST, "none.npz", "There is no file .*none.npz"),
        (OneClassMNIST, "none", "none does not hold MNIST and it cannot be downloaded there .*no network"),
        (OneClassCIFAR10, "none", "none does not hold CIFAR10 and it cannot be downloaded there .*no network"),
    ):
        with pytest.raises(FileNotFoundError, match=words) as error:
            set_up(kind, tmp_path / root)
        assert "\n" not in str(error.value)


def test_setup_alone_downloads_nothing(tmp_path) -> None:
    for kind in (OneClassMNIST, OneClassCIFAR10):
        with pytest.raises(FileNotFoundError, match="Dataset not found"):
            kind(tmp_path / "none").setup()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", ["train/bird", "test/ship"])
@pytest.mark.parametrize("emptied", [True, False])
def test_empty_or_missing_class_folder(folder, place, emptied) -> None:
    for path in (folder / place).iterdir():
        path.unlink()
    if not emptied:
        (folder / place).rmdir()
    with pytest.raises(FileNotFoundError, match=rf"There are no images in .*{place}; a root of image files") as error:
        set_up(OneClassCIFAR10, folder, normal_class="bird")
    assert "\n" not in str(error.value)

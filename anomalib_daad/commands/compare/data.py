# SPDX-License-Identifier: Apache-2.0

"""The data of the comparison: a root in MVTec AD's layout, a folder of one's own, or a datamodule's configuration."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import anomalib.data
import yaml
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.errors import MisMatchError
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_daad.data.ascii_links import ascii_link
from anomalib_daad.data.mvtec_layout import MASK_FOLDERS, find_categories

from .mask_check import refuse_masks_that_do_not_match

_FOLDERS = ("normal_dir", "abnormal_dir", "normal_test_dir", "mask_dir")


@dataclass(frozen=True)
class ComparedData:
    """What all models are trained and tested on.

    Attributes:
        name (str): Name in the report.
        class_path (str): Datamodule of anomalib.
        arguments (dict[str, Any]): Its arguments.
        fingerprint (str): Mark of the files' names, sizes and times, so that changed data are other data; empty where
            the files are the datamodule's to know.
    """

    name: str
    class_path: str
    arguments: dict[str, Any]
    fingerprint: str = ""

    def build(self, batch_size: int, eval_batch_size: int, seed: int) -> AnomalibDataModule:
        """Build the datamodule.

        Args:
            batch_size (int): Images a training step.
            eval_batch_size (int): Images a batch in the test.
            seed (int): Seed of random splits.

        Returns:
            AnomalibDataModule: The datamodule, set up.

        Raises:
            ValueError: If the data cannot be read.
        """
        sizes = {"train_batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_workers": 0}
        try:
            arguments = {**self.arguments, **self._in_ascii(), **sizes, "seed": seed}
            datamodule = get_datamodule({"data": {"class_path": self.class_path, "init_args": arguments}})
            datamodule.prepare_data()
            datamodule.setup()
        except (AssertionError, LookupError, MisMatchError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"The data {self.name} cannot be read: {reason}"
            raise ValueError(msg) from error
        if getattr(datamodule, "val_data", None) is None:
            msg = f"The data {self.name} have no validation images for the thresholds: use --validation synthetic."
            raise ValueError(msg)
        return datamodule

    def _in_ascii(self) -> dict[str, Any]:
        """The arguments that name folders anomalib would refuse, as links."""
        kind, given = self.class_path.rpartition(".")[2], self.arguments
        if kind == "MVTecAD" and given.get("root"):
            root, category = Path(given["root"]), given.get("category", "bottle")
            if category.isascii():
                return {"root": str(ascii_link(root))}
            link = ascii_link(root / category)
            return {"root": str(link.parent), "category": link.name}
        if kind != "Folder":
            return {}
        root = Path(given.get("root") or ".")
        names = {key: given[key] for key in _FOLDERS if given.get(key)}
        listed = {key: [value] if isinstance(value, str) else value for key, value in names.items()}
        if all(str((root / name).absolute()).isascii() for value in listed.values() for name in value):
            return {}
        return {
            "root": None,
            **{key: [str(ascii_link((root / name).absolute())) for name in value] for key, value in listed.items()},
        }


def find_data(path: Path, categories: list[str] | None = None, validation: str | None = None) -> list[ComparedData]:
    """Find out what a path holds.

    Args:
        path (Path): A root in MVTec AD's layout (CATEGORY/train/good) or one of its categories; a folder with good
            images in ``good`` and, in other folders, defective ones; or a YAML file with ``class_path`` and
            ``init_args`` of a datamodule.
        categories (list[str] | None): Categories of the root; None for all of them.
        validation (str | None): Where thresholds come from, anomalib's ``val_split_mode``; None for the datamodule's
            own. Defaults to ``None``.

    Returns:
        list[ComparedData]: One data set for each category.

    Raises:
        ValueError: If there is nothing of the kind.
    """
    split = {} if validation is None else {"val_split_mode": validation}
    if path.suffix in {".yaml", ".yml"}:
        _refuse_categories(path, categories)
        return [_configured(path, split)]
    if not path.is_dir():
        msg = f"There is no folder {path}: --data must name images, or a YAML file of a datamodule."
        raise ValueError(msg)
    if (path / "train" / "good").is_dir():
        path, categories = path.resolve().parent, [path.resolve().name]
    path = path.resolve()
    known = find_categories(path)
    if known:
        texts = [[text] if text in known else text.split(",") for text in categories or []]
        named = [name.strip() for parts in texts for name in parts if name.strip()]
        if unknown := [name for name in named if name not in known]:
            msg = f"There is no category {', '.join(unknown)} in {path}; it has {', '.join(known)}."
            raise ValueError(msg)
        found = [
            ComparedData(name, "MVTecAD", {"root": str(path), "category": name, **split}, fingerprint(path / name))
            for name in dict.fromkeys(named or known)
        ]
        for data in found:
            if not _has_images(path / data.name / "train" / "good"):
                msg = f"There are no images in {path / data.name / 'train' / 'good'}."
                raise ValueError(msg)
            _check_category(path / data.name)
        return found
    _refuse_categories(path, categories)
    return [_folder(path, split)]


def fingerprint(path: Path) -> str:
    """Mark of a file, or of all files in a folder: their names, sizes and times.

    Args:
        path (Path): File or folder.

    Returns:
        str: Eight characters.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return sha256(repr(facts).encode()).hexdigest()[:8]


def _refuse_categories(path: Path, categories: list[str] | None) -> None:
    if categories:
        msg = f"{path} has no categories to choose from; leave --categories out."
        raise ValueError(msg)


def _folder(path: Path, split: dict[str, Any]) -> ComparedData:
    if not _has_images(path / "good"):
        msg = (
            f"{path} holds neither CATEGORY/train/good nor a folder named good with images, such as {path}/good/1.png."
        )
        raise ValueError(msg)
    masks = next((name for name in MASK_FOLDERS if (path / name).is_dir()), None)
    others = sorted(
        folder.name for folder in path.iterdir() if folder.name not in {"good", masks} and _has_images(folder)
    )
    arguments: dict[str, Any] = {"name": path.resolve().name, "root": str(path.resolve()), "normal_dir": "good"}
    if others:
        arguments["abnormal_dir"] = others
        if masks is not None:
            arguments["mask_dir"] = (
                [f"{masks}/{name}" for name in others] if len(others) > 1 else [_only(path, masks, others[0])]
            )
            for kind, drawn in zip(others, arguments["mask_dir"], strict=True):
                refuse_masks_that_do_not_match(path / kind, path / drawn)
        arguments["val_split_mode"] = "same_as_test"  # of a handful of defects none can be spared
    else:
        arguments["val_split_mode"] = "synthetic"
    return ComparedData(path.resolve().name, "Folder", {**arguments, **split}, fingerprint(path))


def _only(path: Path, masks: str, kind: str) -> str:
    return f"{masks}/{kind}" if (path / masks / kind).is_dir() else masks


def _configured(path: Path, split: dict[str, Any]) -> ComparedData:
    if not path.is_file():
        msg = f"There is no configuration file {path}."
        raise ValueError(msg)
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        read = read.get("data", read)
        arguments = dict(read.get("init_args") or {})
        name = read["class_path"].rpartition(".")[2]
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        msg = f"{path} is not the configuration of a datamodule: it must have class_path and init_args."
        raise ValueError(msg) from error
    if not hasattr(anomalib.data, name):
        msg = f"{path}: anomalib.data has no datamodule {name}."
        raise ValueError(msg)
    shown = arguments.get("category") or arguments.get("name") or name
    return ComparedData(str(shown).replace("/", "_"), read["class_path"], {**arguments, **split})


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in IMG_EXTENSIONS for file in folder.rglob("*"))


def _check_category(path: Path) -> None:
    for kind in sorted(path.glob("test/*")):
        if kind.is_dir() and kind.name != "good":
            refuse_masks_that_do_not_match(kind, path / "ground_truth" / kind.name)

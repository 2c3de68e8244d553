"""What the fourth to seventh rounds tried: short restoration trainings of the preset's network with one thing changed.

Defaults are the third round's preset; the fifth round's small networks are --relative --size 64 --base_channels 16, the
sixth and seventh round's those with --optimizer muon --speckled 0.3.
Ranges are those of the good test images, anomalib's default for MVTec AD.

Example:
    python docs/benchmarks/restoration/explore.py --root datasets/MVTecAD --category bottle --relative --output rows.csv
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD
from kornia.augmentation import RandomAffine
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from anomalib_daad import Daad, corruption
from anomalib_daad.anomaly_map import maximum
from anomalib_daad.corruption import corrupt, relight
from anomalib_daad.light import light
from anomalib_daad.lightning_model import LIGHT, annealed
from anomalib_daad.loss import sample_distance
from anomalib_daad.muon import Muon
from anomalib_daad.output_folder import Row, read_table, write_table
from anomalib_daad.precision import computes_bfloat16
from anomalib_daad.structure_map import StructureMap
from anomalib_daad.torch_model import DaadModel

CONTRAST = 0.4  # at which a relative loss sees images


def load(root: Path, category: str, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read training images, test images, labels and masks."""
    datamodule = MVTecAD(root, category, eval_batch_size=16, num_workers=0)
    datamodule.setup()
    transform = Daad.configure_pre_processor((size, size)).transform
    train = torch.stack([transform(item.image) for item in datamodule.train_data])
    test = [(transform(item.image), item.gt_label, item.gt_mask) for item in datamodule.test_data]
    images, labels, masks = (torch.stack([torch.as_tensor(x) for x in part]) for part in zip(*test, strict=True))
    return train, images, labels.int(), (interpolate(masks[:, None].float(), (size, size)) > 0)[:, 0].int()


def train(model: DaadModel, images: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Train as the preset does, with the changes asked for."""
    structure = StructureMap()
    moved = RandomAffine(5, translate=(0.03, 0.03), scale=(0.96, 1.04), padding_mode="border", p=1.0)
    build = Muon if arguments.optimizer == "muon" else partial(torch.optim.Adam, fused=True)
    optimizer = build(model.parameters(), lr=arguments.learning_rate)
    generator = torch.Generator().manual_seed(arguments.seed)
    order = torch.empty(0, dtype=torch.long)
    for step in range(arguments.steps):
        if len(order) < arguments.batch_size:
            order = torch.randperm(len(images), generator=generator)
        batch, order = images[order[: arguments.batch_size]], order[arguments.batch_size :]
        optimizer.param_groups[0]["lr"] = arguments.learning_rate * annealed(step, arguments.steps)
        if arguments.moved:
            batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, moved(batch), batch)
        targets = relight(batch, *LIGHT)
        inputs, masks = corrupt(targets)
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu")):
            restored = model.autoencoder.reconstruct(inputs.contiguous(memory_format=torch.channels_last)).images
            defects = model.comparison(inputs, restored if arguments.end_to_end else restored.detach())
        contrast = light(inputs).contrast / CONTRAST if arguments.relative else 1.0
        loss = 50 * sample_distance(targets / contrast, restored / contrast).mean()
        loss = loss + binary_cross_entropy_with_logits(defects, masks)
        if arguments.structure_weight:
            loss = loss + arguments.structure_weight * structure(targets, restored).mean()
        if arguments.strongest_weight:
            corrupted = (masks.flatten(1).sum(dim=1) > 0).float()
            strongest = maximum(model.anomaly_map.blur(defects))
            loss = loss + arguments.strongest_weight * binary_cross_entropy_with_logits(strongest, corrupted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"{step + 1}/{arguments.steps} {loss.item():.3f}", flush=True)


@torch.no_grad()
def restore_and_map(model: DaadModel, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Restore images, and make the structure map and the comparison's map of them."""
    model.eval()
    restored = torch.cat([model.autoencoder(batch) for batch in images.split(16)])
    compared = [model.comparison(*pair) for pair in zip(images.split(16), restored.split(16), strict=True)]
    structure = model.anomaly_map(images, restored)
    return restored, {"structure": structure, "comparison": model.anomaly_map.blur(torch.cat(compared))}


@torch.no_grad()
def measure(model: DaadModel, images: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> Row:
    """Judge the scores by image, and the maps by pixel: over all images, and within each defective image."""
    restored, maps = restore_and_map(model, images)
    mean, contrast = light(images)
    relative = ((x - mean) / contrast * 0.25 for x in (images, restored))
    scaled = []
    for anomaly_map in maps.values():
        low, high = maximum(anomaly_map)[labels == 0].aminmax()
        scaled.append((anomaly_map - low) / (high - low))
    maps["fused"] = (scaled[0] + scaled[1]) / 2
    scores = {
        "mean_error": (images - restored).square().mean(dim=(1, 2, 3)),
        "mean_relative_error": ((images - restored) / contrast).square().mean(dim=(1, 2, 3)),
        "relative_structure": maximum(model.anomaly_map(*relative)),
        **{name: maximum(anomaly_map) for name, anomaly_map in maps.items()},
        "score": maximum(scaled[0]) + maximum(scaled[1]),
    }
    row: Row = {name: round(roc_auc_score(labels, score), 3) for name, score in scores.items()}
    defective = masks.flatten(1).any(dim=1)
    for name, anomaly_map in maps.items():
        row[f"{name}_pixel"] = round(roc_auc_score(masks.flatten(), anomaly_map.flatten()), 3)
        pairs = zip(masks[defective], anomaly_map[defective], strict=True)
        row[f"{name}_pixel_within"] = round(np.mean([roc_auc_score(m.flatten(), a.flatten()) for m, a in pairs]), 3)
    return row


@torch.no_grad()
def measure_held_out(model: DaadModel, held_out: torch.Tensor, seen: torch.Tensor) -> Row:
    """Judge by training images alone: AUROC of corrupted ones against held-out ones, and of held-out against seen ones.

    The second is 0.5 unless the network learnt the images that it saw by heart.
    """
    torch.manual_seed(777)
    corrupted = torch.cat([corrupt(batch, share=1.0).images for batch in held_out.repeat(4, 1, 1, 1).split(8)])
    unseen, bad, known = (
        {name: maximum(anomaly_map) for name, anomaly_map in restore_and_map(model, images)[1].items()}
        for images in (held_out, corrupted, seen)
    )
    model.score.calibrate(unseen["structure"], unseen["comparison"])
    for scores in (unseen, bad, known):
        scores["score"] = model.score(scores["structure"], scores["comparison"])
    row: Row = {}
    for name in unseen:
        row[f"{name}_corrupted"] = _auroc(unseen[name], bad[name])
        row[f"{name}_unseen"] = _auroc(known[name], unseen[name])
    return row


def _auroc(low: torch.Tensor, high: torch.Tensor) -> float:
    return round(roc_auc_score([0] * len(low) + [1] * len(high), torch.cat([low, high])), 3)


def main() -> None:
    """Add one row to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--optimizer", choices=["adam", "muon"], default="adam")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--base_channels", type=int, default=32, help="of the autoencoder and of the comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--relative", action="store_true", help="loss relative to the contrast of each image")
    parser.add_argument(
        "--structure_weight", type=float, default=0.0, help="weight of the structural difference as a loss"
    )
    parser.add_argument("--strongest_weight", type=float, default=0.0, help="weight of a loss on the strongest point")
    parser.add_argument("--speckled", type=float, default=0.0, help="share of images corrupted in specks")
    parser.add_argument("--end_to_end", action="store_true", help="the comparison trains the autoencoder too")
    parser.add_argument(
        "--held_out", action="store_true", help="judge by a fifth of the training images, which training does not see"
    )
    parser.add_argument("--moved", action="store_true", help="turn, move and scale every second image a little")
    arguments = parser.parse_args()
    corruption.SPECKLED = arguments.speckled
    images, *test = load(arguments.root, arguments.category, arguments.size)
    if arguments.held_out:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(123))
        held_out, images = images[order].tensor_split([len(images) // 5])
    torch.manual_seed(arguments.seed)
    model = DaadModel(
        (arguments.size, arguments.size),
        (arguments.size // 16, arguments.size // 16, 1),
        adversarial=False,
        gamma=0.5,
        base_channels=arguments.base_channels,
        map_sigma=1.5 * arguments.size / 128,
        score="maximum_structure",
        comparison_channels=arguments.base_channels,
        standardize=True,
    ).to(memory_format=torch.channels_last)
    start = time.process_time()
    train(model, images, arguments)
    seconds = round(time.process_time() - start)
    options = {key: str(value) for key, value in vars(arguments).items() if key not in {"root", "output"}}
    rows = read_table(arguments.output) if arguments.output.exists() else []
    if arguments.held_out:
        measures = measure_held_out(model, held_out, images[: len(held_out)])
    else:
        measures = measure(model, *test)
    write_table([*rows, {**options, **measures, "core_seconds": seconds}], arguments.output)


if __name__ == "__main__":
    main()

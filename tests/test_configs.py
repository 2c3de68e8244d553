# SPDX-License-Identifier: Apache-2.0

"""Every shipped configuration loads through anomalib's command line."""

from pathlib import Path

import pytest
import torch
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator

from anomalib_daad import Daad, DemoTextures
from anomalib_daad.commands.reproduce import systems
from anomalib_daad.commands.speed import peers
from anomalib_daad.components.block_memory import BlockMemory

CONFIGS = Path(__file__).parents[1] / "configs"
SYSTEMS = {  # number of memories, and queries of the coarsest at 64 px
    "ae.yaml": (0, []),
    "ae_skip.yaml": (0, []),
    "memae.yaml": (1, [16]),
    "memae_daad.yaml": (1, [16]),
    "memae_skip.yaml": (4, [16]),
    "mnad.yaml": (1, [16]),
    "mnad_no_memory.yaml": (0, []),
    "mnad_uniform.yaml": (1, [16]),
}


def load(name: str, *overrides: str) -> AnomalibCLI:
    return AnomalibCLI(["fit", "--config", str(CONFIGS / name), *overrides], run=False)


def test_no_config_is_forgotten() -> None:
    ours = {
        "benchmark.yaml",
        "daad.yaml",
        "daad_plus.yaml",
        "daad_plus_cpu.yaml",
        "daad_plus_small.yaml",
        "daad_restoration.yaml",
        "daad_restoration_cpu.yaml",
        "demo.yaml",
        "one_class_mnist.yaml",
    }
    assert {path.name for path in CONFIGS.glob("*.yaml")} == ours | SYSTEMS.keys()


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name) -> None:
    cli = load(name, "--model.image_size", "[64, 64]")
    num_memories, num_queries = SYSTEMS[name]
    images = torch.rand(2, 3, 64, 64)
    reads = cli.model.model.train()(images).reads
    assert len(reads) == num_memories
    assert [read.queries.shape[1] for read in reads[-1:]] == num_queries
    assert cli.engine._cache.args["max_epochs"] == (60 if name.startswith("mnad") else 1000)


def test_anomalibs_benchmark_starts_with_daad(data_root) -> None:
    arguments = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text())["benchmark"]
    arguments["data"]["init_args"] |= {"root": str(data_root), "category": {"grid": ["part"]}}
    with torch.device("meta"):
        job = next(iter(BenchmarkJobGenerator("cpu").generate_jobs(arguments, None)))
    assert isinstance(job.model, Daad)
    assert job.datamodule.category == "part"
    assert job.flat_cfg["model.class_path"] == "Daad"


@pytest.mark.parametrize(
    ("name", "peer"), [("daad_plus_small.yaml", "DAAD+ small"), ("daad_restoration.yaml", "DAAD, restoration")]
)
def test_presets_are_those_that_are_timed(name, peer) -> None:
    shipped, timed = load(name).model.model, peers.MODELS[peer](256, 209)
    assert shipped.autoencoder.standardize == timed.autoencoder.standardize
    assert shipped.score_kind == timed.score_kind
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (shipped, timed)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "adversarial"), [("daad.yaml", False), ("daad_plus.yaml", True)])
def test_paper_recipes(name, adversarial) -> None:
    cli = load(name)
    model, trainer = cli.model, cli.engine._cache.args
    assert isinstance(model, Daad)
    assert model.model.image_size == (256, 256)
    assert (model.model.discriminator is not None) == adversarial
    assert all(memory.items.shape[0] == 500 for memory in model.model.autoencoder.memories)
    assert all(memory.division_rates == (8, 8, 1) for memory in model.model.autoencoder.memories)
    assert model.learning_rate == (2e-4 if adversarial else 1e-4)
    assert model.model.score.gamma == 0.9
    loss = model.generator_loss
    assert (loss.lambda_rec, loss.lambda_adv, loss.lambda_ali) == (50, 0.5, 0.5)
    assert cli.datamodule.train_batch_size == 8
    assert trainer["max_epochs"] == 1000


def test_cpu_recipe() -> None:
    cli = load("daad_plus_cpu.yaml", "--trainer.max_steps", "7", "--data.category", "screw")
    assert cli.model.model.image_size == (128, 128)
    assert cli.engine._cache.args["precision"] == "bf16-mixed"
    assert cli.engine._cache.args["max_steps"] == 7
    assert cli.datamodule.category == "screw"


def test_demo_runs(tmp_path) -> None:
    cli = load(
        "demo.yaml",
        *("--model.num_items", "5", "--model.base_channels", "4", "--model.comparison_channels", "4"),
        *("--trainer.max_steps", "2"),
        *("--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "false"),
        *("--default_root_dir", str(tmp_path / "results")),
    )
    assert isinstance(cli.datamodule, DemoTextures)
    metrics = cli.engine.train(cli.model, datamodule=cli.datamodule)[0]
    assert {"image_AUROC", "pixel_AUROC"} <= metrics.keys()
    assert len(list((tmp_path / "results").rglob("images/test/*/*.png"))) == 70


@pytest.mark.parametrize("name", ["daad_restoration.yaml", "daad_restoration_cpu.yaml"])
def test_restoration_configs(name) -> None:
    with torch.device("meta"):
        model = load(name, "--data.num_workers", "0").model
    assert model.restoration
    assert model.model.comparison is not None
    assert model.calibrates_on_good


def test_restoration_presets_differ_in_width_and_length_alone() -> None:
    presets = [yaml.safe_load((CONFIGS / f"daad_restoration{kind}.yaml").read_text()) for kind in ("", "_cpu")]
    widths = [preset["model"]["init_args"].pop("base_channels") for preset in presets]
    assert widths == [64, 32]
    assert presets[0]["model"] == presets[1]["model"]
    assert presets[0]["data"] == presets[1]["data"]
    wide, small = (preset["trainer"] for preset in presets)
    different = {key for key in wide | small if wide.get(key) != small.get(key)}
    assert different == {"accelerator", "max_steps", "val_check_interval"}


def test_demo_and_reproduce_train_the_recommended_model() -> None:
    preset, demo = (
        yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]
        for name in ("daad_restoration_cpu.yaml", "demo.yaml")
    )
    size = {"image_size": [128, 128], "division_rates": [8, 8, 1], "map_sigma": 1.5}  # its scratches are thin
    brief = {"base_channels": 16}
    texture = {"placement_radius": 2, "standardize_maps": True, "error_map": True, "downscale": 4, "random_shift": 2}
    plain = {"score": "maximum_structure"}  # several maxima take standardised maps
    # A texture has no place.
    assert {"division_rates": [8, 8, 1], **texture, **demo} == {**preset, **size, **brief, **plain}
    arguments = systems.SYSTEMS["Restoration"].arguments
    arguments = {**arguments, "division_rates": list(arguments["division_rates"])}
    # The size is `reproduce`'s own: --image_size 256 --model "{downscale: 4, random_shift: 2}" are the preset's.
    assert {**arguments, "image_size": [256, 256], "downscale": 4, "random_shift": 2, "seed": 0} == preset


def parts_of(model: Daad) -> set[str]:
    """Names, in `reproduce`'s systems, of the parts of restoration training that a model has."""
    memories = [module for module in model.modules() if isinstance(module, BlockMemory)]
    has = {
        "corruptions and comparison": model.restoration,
        "comparison": model.model.comparison is not None,
        "structure": model.model.score_kind in {"maximum_structure", "maxima"},
        "several maxima": model.model.score_kind == "maxima",
        "equal light": model.model.autoencoder.standardize,
        "memory": len(memories) > 0,
        "blocks": any(memory.block_shape[1] > 1 for memory in memories),
        "Muon": model.optimizer_name == "muon",
        "placement": model.model.placement is not None,
        "standardised maps": model.model.standardization is not None,
        "error map": model.model.error_map,
    }
    return {part for part, present in has.items() if present}


def test_each_part_of_restoration_training_can_be_taken_away() -> None:
    whole = parts_of(Daad(image_size=(64, 64), **systems.SYSTEMS["Restoration"].arguments))
    prefix = "Restoration without "
    parts = {name.removeprefix(prefix) for name in systems.SYSTEMS if name.startswith(prefix)}
    assert parts == whole
    goes_with_it = {
        "corruptions and comparison": {"comparison"},
        "memory": {"blocks"},
        "structure": {"several maxima"},
        "standardised maps": {"error map", "several maxima"},
    }
    for part in parts:
        model = Daad(image_size=(64, 64), **systems.SYSTEMS[prefix + part].arguments)
        assert whole - parts_of(model) == {part} | goes_with_it.get(part, set())

# SPDX-License-Identifier: Apache-2.0

"""Every shipped configuration loads through anomalib's command line."""

from pathlib import Path

import pytest
import torch
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_daad import Daad, DaadRestoration, DemoTextures, MemAe, Mnad
from anomalib_daad.commands.speed import peers

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
        "daad_cpu.yaml",
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
    assert isinstance(cli.model, Mnad if name.startswith("mnad") else MemAe if name == "memae.yaml" else Daad)
    images = torch.rand(2, 3, 64, 64)
    reads = cli.model.model.explain(images).reads
    assert len(reads) == num_memories
    assert [read.queries.shape[1] for read in reads[-1:]] == num_queries
    assert cli.engine._cache.args["max_epochs"] == (60 if name.startswith("mnad") else 1000)


def test_anomalibs_benchmark_starts_with_the_recommended_model(data_root) -> None:
    arguments = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text())["benchmark"]
    arguments["data"]["init_args"] |= {"root": str(data_root), "category": {"grid": ["part"]}}
    with torch.device("meta"):
        job = next(iter(BenchmarkJobGenerator("cpu").generate_jobs(arguments, None)))
    assert isinstance(job.model, DaadRestoration)
    assert job.datamodule.category == "part"
    assert job.flat_cfg["model.class_path"] == "DaadRestoration"


@pytest.mark.parametrize(
    ("name", "peer"), [("daad_plus_small.yaml", "DAAD+ small"), ("daad_restoration.yaml", "DaadRestoration")]
)
def test_presets_are_those_that_are_timed(name, peer) -> None:
    shipped, timed = load(name).model.model, peers.MODELS[peer](256, 209)
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
    cli = load("daad_cpu.yaml", "--trainer.max_steps", "7", "--data.category", "screw")
    assert cli.model.model.image_size == (64, 64)
    assert [memory.division_rates for memory in cli.model.model.autoencoder.memories] == [(4, 4, 1)] * 4
    assert cli.model.model.discriminator is None
    assert cli.engine._cache.args["max_steps"] == 7
    assert cli.datamodule.category == "screw"


def test_demo_runs(tmp_path) -> None:
    cli = load(
        "demo.yaml",
        *("--model.image_size", "[64, 64]", "--model.downscale", "2", "--model.base_channels", "4"),
        *("--trainer.max_steps", "2"),
        *("--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "false"),
        *("--default_root_dir", str(tmp_path / "results")),
    )
    assert isinstance(cli.datamodule, DemoTextures)
    metrics = cli.engine.train(cli.model, datamodule=cli.datamodule)[0]
    assert {"image_AUROC", "pixel_AUROC"} <= metrics.keys()
    assert len(list((tmp_path / "results").rglob("images/test/*/*.png"))) == 70


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        ("daad_restoration.yaml", {"seed": 0}),
        ("daad_restoration_cpu.yaml", {"seed": 0, "base_channels": 32}),
        ("demo.yaml", {"seed": 0, "base_channels": 32}),
    ],
)
def test_restoration_presets_are_the_defaults_but_for_their_width(name, differing) -> None:
    written = yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]
    with torch.device("meta"):
        shipped, default = load(name, "--data.num_workers", "0").model, DaadRestoration()
    assert isinstance(shipped, DaadRestoration)
    assert {key: value for key, value in shipped.hparams.items() if value != default.hparams.get(key)} == differing
    assert written.keys() - differing.keys() <= {"image_size"}


def test_the_recommended_preset_trains_for_the_default_length(tmp_path) -> None:
    """Its configuration says nothing of the length, as the model's own default is the recipe."""
    cli = load("daad_restoration.yaml", "--default_root_dir", str(tmp_path))
    assert cli.engine._cache.args.get("max_steps", -1) == -1
    assert cli.engine._cache.args.get("max_epochs") is None
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.state.fn = TrainerFn.FITTING
    cli.model.trainer = trainer
    assert (trainer.max_steps, trainer.val_check_interval) == (3000, 1500)


@pytest.mark.parametrize("name", ["daad_restoration.yaml", "daad_cpu.yaml", "memae.yaml", "mnad_uniform.yaml"])
def test_the_configuration_that_training_writes_is_accepted(name, tmp_path) -> None:
    """Lightning saves what it parsed, with every default written out."""
    first = load(name, "--data", "Folder", "--data.name", "parts", "--data.normal_dir", "good", "--data.root", "parts")
    saved = yaml.safe_load(first.parser.dump(first.config, skip_none=False))["fit"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    second = AnomalibCLI(["fit", "--config", str(tmp_path / "config.yaml")], run=False)
    assert type(second.model) is type(first.model)
    assert dict(second.model.hparams).keys() == dict(first.model.hparams).keys()
    kinds = (bool, int, float, str, list, tuple, type(None))
    for key, value in first.model.hparams.items():
        if isinstance(value, kinds):
            assert second.model.hparams[key] == value, key
    assert second.datamodule.normal_dir == first.datamodule.normal_dir
    assert second.engine._cache.args["max_epochs"] == first.engine._cache.args["max_epochs"]

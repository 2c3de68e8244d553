# SPDX-License-Identifier: Apache-2.0

"""Training, calibration, checkpoints and resuming through anomalib's Engine."""

import copy
from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from conftest import RESTORATION, SMALL, make_model
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader

from anomalib_daad import Daad
from anomalib_daad.training import reconstruction_training as lightning_base
from anomalib_daad.training.reconstruction_training import random_flips, random_shifts


def weights(model: Daad) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.model.state_dict())


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def raw_scores(model: Daad, datamodule, split: str) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
    """R(x), L(x) and labels of a split, one image at a time."""
    model.eval()
    reconstruction, alignment, labels = [], [], []
    for item in getattr(datamodule, f"{split}_data"):
        with torch.no_grad():
            scores = model.model.scores(model.pre_processor.transform(item.image[None]))
        reconstruction.append(scores.reconstruction)
        alignment.append(scores.alignment)
        labels.append(int(item.gt_label))
    has_alignment = alignment[0] is not None
    return torch.cat(reconstruction), torch.cat(alignment) if has_alignment else None, labels


class DoubleDaad(Daad):
    """Trains in float64, where rounding cannot turn the sign of one of Adam's first steps."""

    def training_step(self, batch, batch_idx):
        return super().training_step(SimpleNamespace(image=batch.image.double()), batch_idx)


def norm(difference: torch.Tensor) -> torch.Tensor:
    return (difference**2).sum(dim=(1, 2, 3)).sqrt()


class ReferenceStep(Callback):
    """Repeats every training step with gradients and Adam written out, and compares the weights."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        del trainer, batch
        if batch_idx == 0 and not hasattr(self, "moments"):
            self.reference = copy.deepcopy(pl_module.model)
            self.moments = {name: (0.0, 0.0) for name, _ in self.reference.named_parameters()}
            self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        del trainer, outputs, batch_idx
        model, x = self.reference, batch.image.double()
        x_hat = model.autoencoder(x)
        real, fake = model.discriminator(x), model.discriminator(x_hat)
        generator_loss = (
            50 * norm(x - x_hat).mean()
            + 0.5 * -logsigmoid(fake.logits).mean()
            + 0.5 * norm(real.features.detach() - fake.features).mean()
        )
        discriminator_loss = -logsigmoid(real.logits).mean() - logsigmoid(-fake.logits).mean()
        self.steps += 1
        updates = {}
        for prefix, loss in (("autoencoder", generator_loss), ("discriminator", discriminator_loss)):
            names, parameters = zip(*((n, p) for n, p in model.named_parameters() if n.startswith(prefix)), strict=True)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                first, second = self.moments[name]
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                self.moments[name] = (first, second)
                corrected = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
                updates[name] = 2e-4 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= updates[name]
        trained = dict(pl_module.model.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, trained[name].detach(), rtol=0, atol=1e-7, msg=name)


def test_a_training_step_is_eq_3_to_6_and_adam(make_datamodule, make_engine) -> None:
    callback = ReferenceStep()
    engine = make_engine(max_epochs=1, callbacks=[callback], limit_val_batches=0, precision="64-true")
    engine.fit(DoubleDaad(**SMALL, flips=False), datamodule=make_datamodule())
    assert callback.steps == 3


def test_fit_reload_test_gives_identical_metrics(make_datamodule, make_engine) -> None:
    model, datamodule = make_model(), make_datamodule()
    engine = make_engine(max_epochs=2)
    engine.fit(model, datamodule=datamodule)
    expected = engine.test(model, datamodule=datamodule)
    path = engine.trainer.checkpoint_callback.best_model_path

    reloaded = Daad.load_from_checkpoint(path)
    assert_same_weights(weights(model), weights(reloaded))
    assert make_engine().test(reloaded, datamodule=make_datamodule()) == expected
    assert make_engine().test(make_model(), datamodule=make_datamodule(), ckpt_path=path) == expected


@pytest.mark.parametrize("adversarial", [True, False])
def test_ranges_and_auroc_are_those_of_the_validation_images(make_datamodule, make_engine, adversarial) -> None:
    model, datamodule = make_model(adversarial=adversarial), make_datamodule()
    engine = make_engine(max_epochs=2)
    metrics = engine.train(model, datamodule=datamodule)[0]
    reconstruction, alignment, labels = raw_scores(model, datamodule, "val")
    score = model.model.score
    torch.testing.assert_close(score.reconstruction_range, torch.stack(reconstruction.aminmax()))
    fused = (reconstruction - reconstruction.min()) / (reconstruction.max() - reconstruction.min())
    if adversarial:
        torch.testing.assert_close(score.alignment_range, torch.stack(alignment.aminmax()))
        scaled = (alignment - alignment.min()) / (alignment.max() - alignment.min())
        fused = 0.9 * fused + 0.1 * scaled
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(labels, fused), abs=1e-6)
    # What the post-processor read was scaled already: the fused scores of the split, not those of an older range.
    torch.testing.assert_close(model.post_processor.image_min, fused.min(), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.post_processor.image_max, fused.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("limit", [1, 2])
def test_ranges_follow_a_limited_validation(make_datamodule, make_engine, limit) -> None:
    model, datamodule = make_model(), make_datamodule()
    make_engine(max_epochs=1, limit_val_batches=limit).fit(model, datamodule=datamodule)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(
        model.model.score.reconstruction_range, torch.stack(reconstruction[: 4 * limit].aminmax())
    )


@pytest.mark.parametrize(
    ("data_arguments", "trainer_arguments"),
    [
        ({"val_split_mode": "none"}, {"max_epochs": 1, "limit_val_batches": 0}),
        ({}, {"max_epochs": 1, "limit_val_batches": 0}),
        ({}, {"max_steps": 2}),
        ({}, {"max_epochs": 2, "check_val_every_n_epoch": 3}),
    ],
)
def test_without_validation_the_training_scores_set_the_ranges(
    make_datamodule, make_engine, data_arguments, trainer_arguments
) -> None:
    model, datamodule = make_model(), make_datamodule(**data_arguments)
    seen = []
    loss = model.generator_loss
    hook = loss.register_forward_hook(lambda _, __, terms: seen.append(terms))
    engine = make_engine(**trainer_arguments)
    engine.fit(model, datamodule=datamodule)
    hook.remove()
    last_epoch = seen[-min(3, len(seen)) :]
    errors = torch.cat([terms.reconstruction for terms in last_epoch]).detach()
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(errors.aminmax()))
    predictions = engine.predict(model, datamodule=datamodule)
    assert all(batch.pred_score.isfinite().all() for batch in predictions)


def test_validation_ranges_outlive_epochs_without_validation(make_datamodule, make_engine) -> None:
    class Remember(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            del trainer
            self.range = pl_module.model.score.reconstruction_range.clone()

    model, remember = make_model(), Remember()
    make_engine(max_epochs=3, check_val_every_n_epoch=2, callbacks=[remember]).fit(model, datamodule=make_datamodule())
    assert torch.equal(model.model.score.reconstruction_range, remember.range)


@pytest.mark.parametrize("mode", ["same_as_test", "from_test", "synthetic", "from_train"])
def test_every_validation_split_gives_finite_scores(make_datamodule, make_engine, mode) -> None:
    engine = make_engine(max_epochs=1)
    model, datamodule = make_model(), make_datamodule(val_split_mode=mode, seed=0)
    metrics = engine.train(model, datamodule=datamodule)[0]
    assert all(np.isfinite(value) for value in metrics.values())
    assert model.model.score.reconstruction_range.isfinite().all()
    assert model.model.score.alignment_range.isfinite().all()


def test_persistent_workers_survive_calibration(make_datamodule, make_engine) -> None:
    datamodule = make_datamodule()
    datamodule.setup()
    loaders = [
        DataLoader(data, batch_size=4, collate_fn=data.collate_fn, num_workers=1, persistent_workers=True)
        for data in (datamodule.train_data, datamodule.val_data)
    ]
    model = make_model()
    make_engine(max_epochs=2).fit(model, *loaders)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(reconstruction.aminmax()))


def test_validate_alone_calibrates_on_its_loader(make_datamodule, make_engine) -> None:
    model, datamodule = make_model(), make_datamodule()
    make_engine().validate(model, datamodule=datamodule)
    reconstruction, _, _ = raw_scores(model, datamodule, "val")
    torch.testing.assert_close(model.model.score.reconstruction_range, torch.stack(reconstruction.aminmax()))


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


@pytest.mark.parametrize("adversarial", [True, False])
def test_compiled_training_is_the_same(make_datamodule, make_engine, monkeypatch, tmp_path, adversarial) -> None:
    """As traced for torch.compile; the code that its default backend generates takes minutes."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    models = [make_model(torch_compile=compiled, adversarial=adversarial) for compiled in (False, True)]
    for model in models:
        make_engine(max_epochs=2).fit(model, datamodule=make_datamodule())
    plain, compiled = models
    assert compiled.model.autoencoder.encoder._compiled_call_impl is not None
    assert plain.model.autoencoder.encoder._compiled_call_impl is None
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-3, atol=1e-3, equal_nan=True)
    images = torch.rand(2, 3, 32, 32)
    expected = compiled.eval()(images)
    exported = torch.load(compiled.to_torch(tmp_path), weights_only=False)["model"]
    torch.testing.assert_close(exported(images).pred_score, expected.pred_score, rtol=0, atol=1e-4)
    assert compiled.to_onnx(tmp_path).exists()


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


def test_max_steps_counts_batches_not_optimizers(make_datamodule, make_engine) -> None:
    engine = make_engine(max_steps=5, max_epochs=-1)
    model = make_model()
    engine.fit(model, datamodule=make_datamodule())
    steps = {int(entry["step"]) for optimizer in engine.trainer.optimizers for entry in optimizer.state.values()}
    assert engine.trainer.global_step == 5
    assert steps == {5}


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("adversarial", [True, False])
def test_training_learns_to_reconstruct(make_datamodule, make_engine, precision, adversarial) -> None:
    model, datamodule = make_model(adversarial=adversarial, learning_rate=2e-3), make_datamodule()
    datamodule.setup()
    before, _, _ = raw_scores(model, datamodule, "train")
    make_engine(max_epochs=10, precision=precision, limit_val_batches=0).fit(model, datamodule=datamodule)
    after, _, _ = raw_scores(model, datamodule, "train")
    assert after.mean() < 0.7 * before.mean()


def test_the_user_sets_the_number_of_epochs() -> None:
    assert not {"max_epochs", "max_steps", "precision"} & make_model().trainer_arguments.keys()


@pytest.mark.parametrize(("adversarial", "rate"), [(True, 2e-4), (False, 1e-4)])
def test_learning_rate_defaults_to_the_papers(adversarial, rate) -> None:
    optimizers = make_model(adversarial=adversarial).configure_optimizers()
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [rate] * (1 + adversarial)
    assert make_model(learning_rate=3e-3).configure_optimizers()[0].param_groups[0]["lr"] == 3e-3


def test_each_image_is_flipped_on_its_own() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    flipped = random_flips(image.expand(400, -1, -1, -1))
    variants = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    counts = [int((flipped == variant).all(dim=(1, 2, 3)).sum()) for variant in variants]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_each_image_is_moved_on_its_own_with_its_borders_repeated() -> None:
    torch.manual_seed(0)
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    moved = random_shifts(image.expand(500, -1, -1, -1), 2)
    padded = np.pad(image[0, 0].numpy(), 2, mode="edge")
    variants = [padded[2 - r : 6 - r, 2 - c : 7 - c] for r in (-2, -1, 0, 1, 2) for c in (-2, -1, 0, 1, 2)]
    counts = [int((moved[:, 0].numpy() == variant).all(axis=(1, 2)).sum()) for variant in variants]
    assert sum(counts) == 500
    assert min(counts) > 5


@pytest.mark.parametrize("most", [0, 3])
def test_a_training_sees_moved_images_and_judges_places_by_unmoved_ones(
    most, make_datamodule, make_engine, monkeypatch
) -> None:
    shifts, seen, measured = [], [], []
    monkeypatch.setattr(lightning_base, "random_shifts", lambda images, most: shifts.append((images, most)) or -images)
    model = make_model(**RESTORATION, flips=False, random_shift=most, placement_radius=1)
    monkeypatch.setattr(model, "losses", lambda images: seen.append(images) or Daad.losses(model, images))
    monkeypatch.setattr(
        model.model.placement, "measure_growth", lambda images, _: measured.append(images) or torch.ones(1)
    )
    make_engine(max_epochs=1).fit(model, datamodule=make_datamodule())
    if most:
        assert all(torch.equal(trained, -image) for trained, (image, _) in zip(seen, shifts, strict=True))
        assert {most for _, most in shifts} == {3}
        assert torch.equal(measured[-1], -seen[-1])
    else:
        assert not shifts
        assert torch.equal(measured[-1], seen[-1])


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="random_shift must not be negative, got -1"):
        make_model(random_shift=-1)


def test_folder_datamodule_without_masks_or_defects(data_root, make_engine) -> None:
    datamodule = Folder(
        name="own",
        root=data_root / "part",
        normal_dir="train/good",
        train_batch_size=5,  # the last batch holds two images
        num_workers=0,
        val_split_mode="from_train",
        test_split_mode="none",
        seed=0,
    )
    model = make_model()
    engine = make_engine(max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    predictions = engine.predict(model, dataloaders=datamodule.train_dataloader())
    assert all(batch.pred_score.isfinite().all() for batch in predictions)

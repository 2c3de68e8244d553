# SPDX-License-Identifier: Apache-2.0

"""Compiled networks train, are saved and are exported as others."""

from functools import partialmethod
from pathlib import Path

import torch
from conftest import make_model, make_restoration, weights
from torch import nn

from anomalib_daad.components.encoder_decoder import Decoder, Encoder
from anomalib_daad.training import CompileNetworks


def test_compiled_training_is_the_same(make_datamodule, make_engine, monkeypatch, tmp_path) -> None:
    """As traced for torch.compile; the code that its default backend generates takes minutes."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    models = [make_model() for _ in range(2)]
    for model, callbacks in zip(models, ([], [CompileNetworks()]), strict=True):
        make_engine(max_epochs=2, callbacks=callbacks).fit(model, datamodule=make_datamodule())
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
    traced = []

    def trace(model, args, f, *, dynamic_shapes=None, **_) -> None:
        """How an export to ONNX begins; what follows takes seconds, and sees this graph alone."""
        traced.append(torch.export.export(model, args, dynamic_shapes=dynamic_shapes, strict=False))
        Path(f).touch()

    monkeypatch.setattr(torch.onnx, "export", trace)
    assert compiled.to_onnx(tmp_path).exists()
    torch.testing.assert_close(traced[0].module()(images).pred_score, expected.pred_score, rtol=0, atol=1e-4)


def test_the_comparison_whose_borders_pytorch_cannot_compile_is_left_out(
    make_datamodule, make_engine, monkeypatch
) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    model = make_restoration()
    engine = make_engine(max_steps=2, callbacks=[CompileNetworks()], limit_val_batches=0)
    engine.fit(model, datamodule=make_datamodule())
    networks = [module for module in model.modules() if isinstance(module, Encoder | Decoder)]
    compiled = {id(module) for module in networks if module._compiled_call_impl is not None}
    autoencoder = model.model.autoencoder
    assert len(networks) == 4
    assert compiled == {id(autoencoder.encoder), id(autoencoder.decoder)}

"""CompileLayersHook: what it compiles, what it says, and that it changes nothing."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models import VisionTransformer
from tiny import tiny_saim
from torch import nn

from saim_mm.engine import compile_hook
from saim_mm.engine.compile_hook import CompileLayersHook, compile_layers, why_not
from saim_mm.models.layers import AttentionBlock


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were asked to be compiled; nothing is."""
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(self))
    monkeypatch.setattr(compile_hook, "why_not", lambda device: None)
    return asked


def runner_of(model: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(model=model, logger=logging.getLogger("test_compile_hook"))


def test_compiles_the_layers_of_both_streams(compiled: list[nn.Module]) -> None:
    model = tiny_saim()
    CompileLayersHook().before_train(runner_of(model))
    assert compiled == [*model.backbone.layers, *model.neck.layers]
    assert all(isinstance(layer, AttentionBlock) for layer in compiled)


def test_compiles_the_layers_of_other_vits(compiled: list[nn.Module]) -> None:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=16)
    vit = VisionTransformer(arch, img_size=16, patch_size=8)
    CompileLayersHook().before_train(runner_of(vit))
    assert compiled == list(vit.layers)


def test_switched_off_it_does_nothing(compiled: list[nn.Module]) -> None:
    CompileLayersHook(enabled=False).before_train(runner_of(tiny_saim()))
    assert compiled == []


def test_without_a_compiler_training_goes_on_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nMore about it.")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = tiny_saim()
    CompileLayersHook().before_train(runner_of(model))
    assert [r.message for r in caplog.records] == [
        "Training without torch.compile: RuntimeError: Failed to find C compiler."
    ]
    assert all(m._compiled_call_impl is None for m in model.modules())


def test_a_model_without_layers_is_named(
    compiled: list[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    CompileLayersHook().before_train(runner_of(nn.Linear(2, 2)))
    assert "no layer that I know" in caplog.text


def loss_and_gradients(
    model: nn.Module, images: torch.Tensor, order: torch.Tensor
) -> list[torch.Tensor]:
    loss = model.loss(images, order=order)["loss"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, parameters)]


def compare(
    eager: nn.Module, model: nn.Module, autocast: bool
) -> tuple[float, dict[str, int]]:
    """The largest relative difference of loss and gradients, and what was compiled."""
    images = torch.randn(2, 3, *eager.backbone.img_size)
    order = eager.order_sampler.draw(2, images.device)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        wanted = loss_and_gradients(eager, images, order)
        got = loss_and_gradients(model, images, order)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    worst = max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
        for a, b in zip(got, wanted, strict=True)
    )
    return worst, dict(counters["stats"])


@pytest.mark.slow
def test_no_graph_break_and_one_graph_for_all_layers_of_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced but not compiled, so it is the very same sequence of operations."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: compile_module(self, backend="eager")
    )
    eager = tiny_saim()
    eager.init_weights()
    model = copy.deepcopy(eager)
    assert compile_layers(model) == len(eager.backbone.layers) + len(eager.neck.layers)
    worst, stats = compare(eager, model, autocast=False)
    assert worst == 0
    # Encoder; first decoder layer, whose input needs no gradient; the others.
    assert stats["unique_graphs"] == 3
    assert list(model.state_dict()) == list(eager.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_compiled_equals_eager_within_rounding(autocast: bool) -> None:
    reason = why_not(torch.device("cpu"))
    if reason is not None:
        pytest.skip(f"torch cannot compile here: {reason}")
    eager = tiny_saim()
    eager.init_weights()
    model = copy.deepcopy(eager)
    compile_layers(model)
    worst, _ = compare(eager, model, autocast)
    assert worst < (0.05 if autocast else 1e-4)

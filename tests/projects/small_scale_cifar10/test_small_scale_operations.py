"""Equal compute: the operations that are counted are those that are done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from projects.small_scale_cifar10.operations import step_flops
from projects.small_scale_cifar10.scale import Scale
from projects.small_scale_cifar10.systems import SYSTEMS
from projects.small_scale_cifar10.training import task_of
from saim_mm.models import SAIM

BATCH = 2
TRAINED = [name for name, system in SYSTEMS.items() if system.task != "none"]
SETTINGS = [
    (name, changes) for name in TRAINED for changes in ({}, *SYSTEMS[name].alternatives)
]


@pytest.fixture
def scale() -> Scale:
    """Sizes that are unlike each other."""
    return Scale("odd", 24, 4, 3, 20, 10, 20, BATCH, 0, 1, (1e-3,), budgets=(1e9,))


def counted(model: nn.Module, loss: Any, crops: list[torch.Tensor]) -> float:
    """What torch counts for an image, forward and backward."""
    attention = pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention.
    with counter, attention.sdpa_kernel(attention.SDPBackend.MATH):
        loss(model, crops, None).backward()
    return counter.get_total_flops() / BATCH


@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=str)
def test_counted_operations_are_those_that_torch_counts(
    name: str, changes: dict[str, Any], scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the mean over what a step may draw."""
    experiment = SYSTEMS[name].changed(changes)
    model, loss, crops = task_of(experiment, scale, 2)
    model.train()
    model.teacher_moves = True  # as DINOHook says
    generator = torch.Generator().manual_seed(0)
    views = crops(torch.rand(BATCH, 3, 32, 32) * 255, generator)
    if not isinstance(model, SAIM):
        local = len(views) - 2 if experiment.task == "dino" else 0
        assert step_flops(model, local) == counted(model, loss, views)
        return
    sampler, found = model.order_sampler, []
    sampler.scopes = sampler.scopes[::21]  # not all of 64
    for scope in sampler.scopes:
        monkeypatch.setattr(sampler, "draw_scope", lambda *_, scope=scope: scope)
        found.append((counted(model, loss, views), scope.weight))
    weight = sum(weight for _, weight in found)
    mean = sum(flops * weight for flops, weight in found) / weight
    assert step_flops(model) == pytest.approx(mean, rel=1e-6)

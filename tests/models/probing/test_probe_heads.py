"""Heads of probes: what they read, and that layers learn on their own."""

from __future__ import annotations

import copy

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from test_attentive_pool import slow_aim, slow_efficient
from torch import Tensor

import saim_mm  # noqa: F401  (registers the heads)
from saim_mm.engine import BestLayerHook

WIDTH, CLASSES = 12, 5


def maps(layers: int, seed: int = 0) -> list[Tensor]:
    """Feature maps (4, 12, 2, 3) of some layers."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(4, WIDTH, 2, 3, generator=generator, dtype=torch.float64)
        for _ in range(layers)
    ]


def samples() -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in (3, 0, 4, 0)]


def build(**options) -> torch.nn.Module:
    head = MODELS.build(dict(num_classes=CLASSES, in_channels=WIDTH, **options))
    head.init_weights()
    return head.double()


@pytest.mark.parametrize(
    ("kind", "parts", "slow"), [("aim", 3, slow_aim), ("efficient", 4, slow_efficient)]
)
def test_attentive_head_equals_the_slow_reference(kind, parts, slow) -> None:
    head, layers = build(type="AttentiveClsHead", kind=kind, parts=parts), maps(3)
    with torch.no_grad():
        for weight in head.pool.parameters():
            weight.mul_(30)
    mean = sum(layers) / 3
    patches = torch.stack(
        [mean[:, :, row, column] for row in range(2) for column in range(3)], dim=1
    )
    expected = slow(head.pool, patches) @ head.fc.weight.T
    if kind == "efficient":
        expected = expected + head.fc.bias
    found = head(tuple(layers))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    assert (head.fc.bias is None) == (kind == "aim")
    loss = head.loss(tuple(layers), samples())["loss"]
    labels = torch.tensor([3, 0, 4, 0])
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(expected, labels).item()
    )


def test_attentive_head_draws_its_pool_whatever_init_cfg_says() -> None:
    config = dict(type="Constant", layer="Linear", val=7.0)
    head = build(type="AttentiveClsHead", parts=3, init_cfg=config)
    assert (head.fc.weight == 7).all()
    assert head.pool.key.weight.std().item() == pytest.approx(0.02, rel=0.3)
    with pytest.raises(ValueError, match="kind='mean'"):
        build(type="AttentiveClsHead", kind="mean")


def test_each_layer_learns_as_if_it_were_alone() -> None:
    head, layers = build(type="LayerwiseClsHead", num_layers=3), maps(3)
    alone = copy.deepcopy(head)
    labels = torch.tensor([3, 0, 4, 0])
    head.loss(layers, samples())["loss"].backward()
    for probe, own, feature in zip(head.probes, alone.probes, layers, strict=True):
        scores = own(feature.flatten(2).mean(dim=2))
        torch.nn.functional.cross_entropy(scores, labels).backward()
        torch.testing.assert_close(probe[1].weight.grad, own[1].weight.grad)
        torch.testing.assert_close(probe[1].bias.grad, own[1].bias.grad)


def test_the_best_layer_predicts() -> None:
    head, layers = build(type="LayerwiseClsHead", num_layers=3).eval(), maps(3)
    assert head.state_dict()["best"] == 2  # the last, until one is chosen
    for best in range(3):
        head.best.fill_(best)
        scores = head.probes[best](layers[best].mean(dim=(2, 3)))
        assert torch.equal(head(layers), scores)
        predicted = head.predict(layers, samples())
        for sample, score in zip(predicted, scores, strict=True):
            torch.testing.assert_close(sample.pred_score, score.softmax(0))
            assert sample.pred_by_layer[best] == score.argmax()
    with pytest.raises(ValueError, match="num_layers=3.*gives 2"):
        head(layers[:2])


class FakeRunner:
    """As much of a runner as the choice needs."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.model = torch.nn.Module()
        self.model.head = head
        self.logger = self

    def info(self, text: str) -> None:
        self.told = text


def test_the_hook_chooses_the_earliest_of_the_best() -> None:
    runner, hook = (
        FakeRunner(build(type="LayerwiseClsHead", num_layers=3)),
        BestLayerHook(),
    )
    hook.before_train(runner)
    figures = {f"accuracy/layer_0{i}": x for i, x in enumerate((50.0, 70.0, 70.0))}
    hook.after_val_epoch(runner, figures)
    assert runner.model.head.best == 1
    assert runner.told == "layer 1 is best: 70.00 %"
    with pytest.raises(ValueError, match="LayerAccuracy.*accuracy/top1"):
        hook.after_val_epoch(runner, {"accuracy/top1": 1.0})
    with pytest.raises(ValueError, match="AttentiveClsHead"):
        hook.before_train(FakeRunner(build(type="AttentiveClsHead", parts=3)))


@pytest.mark.parametrize("kind", ["aim", "efficient"])
def test_attentive_head_in_16_bits(kind: str) -> None:
    """As the recipe trains: features come in 16 bits, weights are in 32."""
    head = build(type="AttentiveClsHead", kind=kind, parts=4).float()
    layers = [layer.float() for layer in maps(2)]
    expected = head.loss(layers, samples())["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.loss([layer.bfloat16() for layer in layers], samples())["loss"]
    assert found.item() == pytest.approx(expected.item(), rel=0.02)
    found.backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())

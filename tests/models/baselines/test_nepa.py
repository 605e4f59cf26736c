"""NEPA: its own embeddings are the target, and no gradient comes from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dependence import dependence
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_config, tiny_images

from saim_mm.models import NEPA, EmbeddingHead, OrderSampler
from saim_mm.models.baselines.nepa import mean_cosine

CPU = torch.device("cpu")
RASTER: dict[str, Any] = dict(order="raster", depth=0)


def nepa(**options: Any) -> NEPA:
    config = tiny_config(**options)
    config.update(type="NEPA", head=dict(type="EmbeddingHead"))
    model = MODELS.build(config)
    randomise(model, 0)
    return model


def test_loss_is_minus_the_mean_cosine_with_the_next_embedding() -> None:
    model = nepa(**RASTER)
    images = tiny_images(model, 2)
    plan = model.plan(images)
    states = model.backbone(images, plan).states[-1]
    embeddings = (
        model.backbone.patch_embed.projection(images).flatten(2).transpose(1, 2)
    )
    cosines = [
        F.cosine_similarity(model.neck.norm(states[b, i]), embeddings[b, i], dim=0)
        for b in range(2)
        for i in range(6)
    ]
    losses = model.loss(images)
    assert losses["loss"].item() == pytest.approx(-sum(cosines).item() / 12, rel=1e-5)
    flat = embeddings.flatten(0, 1)
    pairs = [
        F.cosine_similarity(flat[i], flat[j], dim=0).item()
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert losses["target_cosine"].item() == pytest.approx(sum(pairs) / 132, rel=1e-4)


def test_perfect_prediction_of_a_constant_target_is_minus_one() -> None:
    """And collapsed targets, which it would be, are logged as such."""
    plan = OrderSampler("raster", (2, 3)).plan(2, CPU)
    target = torch.randn(1, 1, 16).expand(2, 6, 16)
    assert EmbeddingHead().loss(3 * target, target, plan).item() == pytest.approx(-1)
    assert mean_cosine(target).item() == pytest.approx(1)
    assert mean_cosine(torch.eye(8)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [RASTER, dict(), dict(depth=1)], ids=str)
def test_embedding_learns_as_input_only(options: dict[str, Any]) -> None:
    """Gradients are those for a target that was computed before and is a number."""
    model = nepa(**options)
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, CPU)
    model.loss(images, order=order)["loss"].backward()
    ours = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    plan = model.plan(images, order=order)
    with torch.no_grad():
        fixed = model.backbone.patch_embed(images)[0].clone()
    content = model.backbone(images, plan)
    queries = model.neck(content, plan, model.backbone.layers)
    target = fixed.gather(1, order[..., None].expand_as(fixed))
    loss = -F.cosine_similarity(queries, target, dim=-1).mean()
    model.zero_grad()
    loss.backward()
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() >= {"backbone.patch_embed.projection.weight"}
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [RASTER, dict(), dict(depth=1)], ids=str)
def test_no_prediction_sees_its_patch(options: dict[str, Any]) -> None:
    model = nepa(**options)
    images = tiny_images(model, 20)
    plan = model.plan(images)
    seen = dependence(
        lambda x: model.predict_asked(x, plan), images, plan.order, (4, 4)
    )
    earlier = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    assert torch.equal(seen, earlier.expand_as(seen))


def test_a_random_order_needs_queries() -> None:
    with pytest.raises(ValueError, match="depth>=1"):
        nepa(depth=0)


def test_head_in_another_model_says_so() -> None:
    config = tiny_config()
    config["head"] = dict(type="EmbeddingHead")
    model = MODELS.build(config)
    with pytest.raises(ValueError, match="model.type='NEPA'"):
        model.loss(tiny_images(model, 1))

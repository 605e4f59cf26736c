"""Predicting some of the patches: the same loss on average, at a lower cost."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from tiny import tiny_images, tiny_saim

from saim_mm.models import SAIM, OrderSampler


def subset_loss(model: SAIM, images: torch.Tensor, order: torch.Tensor, steps) -> None:
    """The loss for given steps, through the same calls as ``SAIM.loss``."""
    plan = model.order_sampler.plan_of(order, torch.tensor(steps))
    content = model.backbone(images, plan)
    queries = model.neck(content, plan, model.backbone.layers)
    return model.head.loss(queries, images, plan)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(depth=2),
        dict(tied_decoder=True),
        dict(order="segments", segment_size=(1, 3)),
        dict(loss="l1", norm_pix=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_mean_over_all_subsets_is_the_full_loss(options: dict, count: int) -> None:
    """Loss and every gradient, averaged over the subsets that can be drawn."""
    model = tiny_saim(**options)
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    full = model.loss(images, order=order)["loss"]
    subsets = list(combinations(range(model.order_sampler.num_patches), count))
    mean = sum(subset_loss(model, images, order, s) for s in subsets) / len(subsets)
    params = [p for p in model.parameters() if p.requires_grad]
    torch.testing.assert_close(mean, full, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(mean, params), torch.autograd.grad(full, params)
    for ours, theirs in zip(*gradients, strict=True):
        scale = theirs.abs().max().clamp_min(1e-6)
        assert (ours - theirs).abs().max() / scale < 2e-5


def test_subsets_are_equally_likely() -> None:
    order = OrderSampler("stochastic", (2, 2), query_share=0.5)
    counts: dict[tuple[int, ...], int] = {}
    draws = 3000
    for _ in range(draws):
        steps = tuple(order.draw_ranks(torch.device("cpu")).tolist())
        counts[steps] = counts.get(steps, 0) + 1
    assert set(counts) == set(combinations(range(4), 2))
    expected = draws / 6
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < 20.5  # 99.9 % of chi-square with 5 degrees of freedom


def test_a_subset_is_drawn_anew_and_costs_less() -> None:
    model = tiny_saim(query_share=0.5)
    images = tiny_images(model, 2)
    rows: list[int] = []
    model.head.projector.register_forward_hook(
        lambda _, args, out: rows.append(out.shape[1])
    )
    torch.manual_seed(0)
    losses = {model.loss(images)["loss"].item() for _ in range(5)}
    assert set(rows) == {model.order_sampler.num_patches // 2}
    assert len(losses) == 5
    torch.manual_seed(0)
    assert model.loss(images)["loss"].item() in losses


def test_all_queries_draw_nothing() -> None:
    """With the default share the random stream is that of the paper's orders alone."""
    order = OrderSampler("stochastic", (2, 3))
    state = torch.get_rng_state()
    assert order.draw_ranks(torch.device("cpu")) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(query_share=0.0), "greater than 0"),
        (dict(query_share=1.5), "at most 1"),
        (dict(query_share=0.5, projector="transformer"), "projector='mlp'"),
        (dict(query_share=0.5, order="raster", depth=0), "depth>=1"),
    ],
)
def test_wrong_shares(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_saim(**options)

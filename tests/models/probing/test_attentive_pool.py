"""Learnt poolings against slow references and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saim_mm.models.probing.attentive_pool import (
    AttentivePool,
    EfficientPool,
    draw_pool,
)

WIDTH, HEADS, QUERIES = 12, 3, 4


def patches(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 7, WIDTH, generator=generator, dtype=torch.float64) * 3 + 1


def drawn(kind: type, *sizes: int) -> AttentivePool | EfficientPool:
    pool = kind(WIDTH, *sizes).double()
    with torch.no_grad():
        for weight in pool.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(weight.numel()))
    return pool


def slow_aim(pool: AttentivePool, x: Tensor) -> Tensor:
    """A head, an image and a patch at a time; statistics over images and patches."""
    rows = x.flatten(0, 1)
    x = (x - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-6).sqrt()
    size = WIDTH // HEADS
    out = torch.zeros(len(x), WIDTH, dtype=x.dtype)
    for b, image in enumerate(x):
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = [
                math.exp(
                    float(pool.query[part] @ (pool.key.weight @ patch)[part])
                    / math.sqrt(size)
                )
                for patch in image
            ]
            for score, patch in zip(scores, image, strict=True):
                value = (pool.value.weight @ patch)[part]
                out[b, part] += score / sum(scores) * value
    return out


def slow_efficient(pool: EfficientPool, x: Tensor) -> Tensor:
    size = WIDTH // QUERIES
    out = torch.zeros(len(x), WIDTH, dtype=x.dtype)
    for b, image in enumerate(x):
        for j, query in enumerate(pool.query):
            part = slice(j * size, (j + 1) * size)
            scores = [math.exp(float(query @ p) / math.sqrt(WIDTH)) for p in image]
            for score, patch in zip(scores, image, strict=True):
                value = (pool.value.weight @ patch)[part]
                out[b, part] += score / sum(scores) * value
    return (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-6).sqrt()


@pytest.mark.parametrize(
    ("kind", "parts", "slow"),
    [(AttentivePool, HEADS, slow_aim), (EfficientPool, QUERIES, slow_efficient)],
)
def test_equals_the_slow_reference(kind, parts, slow) -> None:
    pool, x = drawn(kind, parts), patches()
    expected = slow(pool, x).detach()
    torch.testing.assert_close(pool(x).detach(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", [AttentivePool, EfficientPool])
def test_zero_queries_take_the_mean(kind) -> None:
    pool, x = drawn(kind, 2).eval(), patches()
    with torch.no_grad():
        pool.query.zero_()
    mean = pool.value.weight @ x.mean(dim=1).T
    torch.testing.assert_close(pool(x), mean.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [AttentivePool, EfficientPool])
def test_equal_patches_are_one_patch_whatever_the_queries(kind) -> None:
    pool, x = drawn(kind, 2).eval(), patches()[:, :1].expand(-1, 7, -1)
    value = (pool.value.weight @ x[:, 0].T).T
    torch.testing.assert_close(pool(x), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [AttentivePool, EfficientPool])
def test_the_order_of_patches_does_not_matter(kind) -> None:
    pool, x = drawn(kind, 2), patches()
    torch.testing.assert_close(pool(x), pool(x.flip(1)), atol=1e-10, rtol=1e-10)


def test_numbers_of_parameters() -> None:
    """2 D^2 + D, and D^2 + Q D."""
    count = lambda pool: sum(p.numel() for p in pool.parameters())  # noqa: E731
    assert count(AttentivePool(768, 12)) == 2 * 768**2 + 768
    assert count(EfficientPool(768, 32)) == 768**2 + 32 * 768


@pytest.mark.parametrize("kind", [AttentivePool, EfficientPool])
def test_weights_come_from_the_generator_alone(kind) -> None:
    before = torch.get_rng_state()
    pools = [kind(WIDTH, 2) for _ in range(2)]
    torch.set_rng_state(before)
    for pool in pools:
        draw_pool(pool, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(*(pool.parameters() for pool in pools), strict=True):
        assert torch.equal(a, b)
        assert a.std().item() == pytest.approx(0.02, rel=0.4)


def test_parts_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="num_heads=5 must divide the 12"):
        AttentivePool(WIDTH, 5)
    with pytest.raises(ValueError, match="num_queries=0"):
        EfficientPool(WIDTH, 0)

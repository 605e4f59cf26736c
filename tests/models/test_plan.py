"""The plan of a batch: who sees whom, by the rule written out, and sorting."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from saim_mm.models import OrderSampler
from saim_mm.models.plan import CAUSAL, sort_tokens, unsort_tokens

CPU = torch.device("cpu")
FAMILY = {
    "stochastic": OrderSampler("stochastic", (4, 6)),
    "raster": OrderSampler("raster", (4, 6)),
    "segments": OrderSampler("segments", (4, 6), (2, 3)),
}


@pytest.mark.parametrize("size", [(2, 3), (1, 2), (4, 6)])
def test_masks_are_by_segment(size: tuple[int, int]) -> None:
    """The block masks follow from "sees" of Eq. 3 and 5 with tied steps."""
    member = OrderSampler("segments", (4, 6), size)
    plan = member.plan_of(member.draw(2, CPU))
    step = torch.arange(24) // (size[0] * size[1])
    content = torch.cat([torch.tensor([-1]), step])  # cls comes first
    assert torch.equal(plan.content_mask.attn_mask, content[:, None] >= content)
    assert torch.equal(plan.memory_mask.attn_mask, step[:, None] > content[:-1])
    assert torch.equal(plan.query_mask.attn_mask, step[:, None] >= step)


@pytest.mark.parametrize("kind", ["stochastic", "raster"])
def test_untied_orders_need_no_mask(kind: str) -> None:
    plan = FAMILY[kind].plan(2, CPU)
    masks = (plan.content_mask, plan.memory_mask, plan.query_mask)
    assert masks == (CAUSAL,) * 3


def _rule(
    sampler: OrderSampler, ranks: list[int], read: int, prefix: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule of ``Plan`` token by token: content, memory and query mask."""
    total, length, extra = 6, sampler.segment_length, sampler.extra_tokens

    def first(t: int) -> int:
        return t - t % length

    content = torch.zeros(extra + read, extra + read, dtype=torch.bool)
    for i in range(-extra, read):
        for j in range(-extra, read):
            sees = j <= i if i < 0 else j < 0 or first(j) <= first(i)
            within = prefix > 0 and i < prefix and j < prefix
            content[extra + i, extra + j] = sees or within
    seen = extra + read if read < total else extra + total - 1
    memory = torch.zeros(len(ranks), extra + read, dtype=torch.bool)
    query = torch.zeros(len(ranks), len(ranks), dtype=torch.bool)
    for row, t in enumerate(ranks):
        for column in range(seen):
            memory[row, column] = column < extra + max(first(t), prefix)
        for column, j in enumerate(ranks):
            same = first(j) == first(t)
            query[row, column] = first(j) <= first(t) and (j < read or same)
    return content, memory, query


SAMPLERS = {
    "stochastic": OrderSampler("stochastic", (2, 3)),
    "registers": OrderSampler("stochastic", (2, 3), extra_tokens=3),
    "raster": OrderSampler("raster", (2, 3)),
    "pairs": OrderSampler("segments", (2, 3), (2, 1)),
    "rows": OrderSampler("segments", (2, 3), (1, 3)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_masks_are_those_of_the_rule(name: str) -> None:
    """For every number that is read, every prefix and every set of ranks."""
    sampler = SAMPLERS[name]
    order = sampler.draw(2, CPU)
    length = sampler.segment_length
    for read in range(0, 7, length):
        for prefix in range(0, read + 1, length):
            for count in range(1, 7):
                for ranks in itertools.combinations(range(6), count):
                    wanted = _rule(sampler, list(ranks), read, prefix)
                    asked = [torch.tensor(ranks)]
                    if ranks[-1] - ranks[0] == count - 1:
                        asked.append(range(ranks[0], ranks[-1] + 1))
                    for given in asked:
                        plan = sampler.plan_of(order, given, read, prefix)
                        masks = (*plan.dense(), plan.query_mask.dense(count, count))
                        for ours, theirs in zip(masks, wanted, strict=True):
                            assert torch.equal(ours, theirs), (read, prefix, given)
                        assert torch.equal(plan.asked, order[:, list(ranks)])
                        assert torch.equal(plan.read, order[:, :read])


@pytest.mark.parametrize("kind", FAMILY)
def test_plans_look_at_no_tensor(kind: str) -> None:
    """So none waits for a GPU: on the meta device there is nothing to look at."""
    order = torch.empty(2, 24, dtype=torch.long, device="meta")
    sampler = FAMILY[kind]
    for plan in (
        sampler.plan_of(order),
        sampler.plan_of(order, range(6, 12)),
        sampler.plan_of(order, torch.arange(6, device="meta")),
        sampler.plan_of(order, range(12, 24), read=12, prefix=6),
    ):
        assert plan.query_mask is not None
        assert plan.before_asked is not None


def test_sort_and_unsort_are_inverse() -> None:
    order = FAMILY["stochastic"].draw(7, CPU)
    tokens = torch.randn(7, 24, 5)
    by_hand = torch.stack([t[o] for t, o in zip(tokens, order, strict=True)])
    assert torch.equal(sort_tokens(tokens, order), by_hand)
    assert torch.equal(unsort_tokens(by_hand, order), tokens)
    shared = torch.randn(1, 24, 5)
    expanded = shared.expand(7, -1, -1)
    assert torch.equal(sort_tokens(shared, order), sort_tokens(expanded, order))

"""Batches are those of MMEngine's ``default_collate``."""

from __future__ import annotations

import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS

from saim_mm.datasets import stack_samples


def test_it_is_default_collate_with_a_scope() -> None:
    samples = [dict(inputs=torch.full((2, 3), float(n)), name=str(n)) for n in range(4)]
    expected = default_collate(samples)
    for batch in (stack_samples(samples), stack_samples(samples, _scope_="saim_mm")):
        assert batch.keys() == expected.keys() and batch["name"] == expected["name"]
        assert torch.equal(batch["inputs"], expected["inputs"])
    assert FUNCTIONS.get("stack_samples") is stack_samples

"""splitmix64: the reference generator's numbers, by both forms."""

from __future__ import annotations

import pytest
import torch

from saim_mm.utils.splitmix64 import hash_keys, mix64, signed


def test_mix64_is_splitmix64() -> None:
    """The first numbers of the reference generator, started at 0."""
    assert mix64(0) == 0xE220A8397B1DCDAF
    assert mix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("key", [0, 1, 12345, 2**63 - 1, 2**63, 2**64 - 1])
def test_tensors_hold_the_same_numbers(key: int) -> None:
    hashed = hash_keys(torch.tensor([signed(key)]), 1)
    assert hashed.shape == (1, 1)
    assert hashed.item() == signed(mix64(key))

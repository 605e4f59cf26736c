"""splitmix64 (Steele, Lea and Flood, 2014), on Python's integers and on tensors.

Whole numbers only, so that every machine, CPU or GPU, comes to the same ones; torch's
own generators differ between the two. Not for secrets.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 2**64 - 1
#: 2**64 over the golden ratio.
GOLDEN = 0x9E3779B97F4A7C15
#: Shifts, and multipliers whose products spread every bit over the whole word.
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def mix64(*words: int) -> int:
    """Hashes integers, of which the lower 64 bits count, into one in [0, 2**64)."""
    state = 0
    for word in words:
        state = ((state ^ word) + GOLDEN) & _MASK
        for shift, multiplier in _ROUNDS:
            state = ((state ^ (state >> shift)) * multiplier) & _MASK
        state ^= state >> _LAST_SHIFT
    return state


def hash_keys(keys: Tensor, count: int) -> Tensor:
    """The first ``count`` numbers of splitmix64, started from each of some keys.

    Args:
        keys: (B,), long.
        count: How many numbers for each; the first is the key's :func:`mix64`.

    Returns:
        (B, count), long; each uniform over the 64 bits.
    """
    steps = torch.arange(1, count + 1, device=keys.device)
    state = keys[:, None] + steps * signed(GOLDEN)  # wraps around, as it must
    for shift, multiplier in _ROUNDS:
        state = (state ^ _shift_right(state, shift)) * signed(multiplier)
    return state ^ _shift_right(state, _LAST_SHIFT)


def signed(word: int) -> int:
    """A number of 64 bits as torch's long has it."""
    return word - 2**64 if word >= 2**63 else word


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Shifts zeros in from the left; ``>>`` alone would copy the sign."""
    return (state >> bits) & (2 ** (64 - bits) - 1)

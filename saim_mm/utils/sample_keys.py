"""Random numbers that follow from a sample, drawn for a whole batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .sample_index import GOLDEN, MULTIPLIERS, SampleIndex, Stream


def sample_indices(data_samples: Sequence[Any] | None) -> list[SampleIndex] | None:
    """What :class:`ExactSampler` said about each sample, if it drew all of them.

    Args:
        data_samples: Packed samples; ``PackInputs`` keeps their ``sample_idx``.
    """
    indices = [sample.get("sample_idx") for sample in data_samples or ()]
    if not indices or not all(isinstance(index, SampleIndex) for index in indices):
        return None
    return indices


def keys_of(
    indices: Sequence[SampleIndex], stream: Stream, device: torch.device
) -> Tensor:
    """The keys of some samples (B,), long.

    Args:
        indices: The samples' indices.
        stream: What the keys are for.
        device: Where they are needed.
    """
    keys = torch.tensor([_signed(index.key(stream)) for index in indices])
    if device.type == "cuda":
        # From pageable memory the host would wait for the GPU to catch up.
        keys = keys.pin_memory()
    return keys.to(device, non_blocking=True)


def hash_keys(keys: Tensor, count: int) -> Tensor:
    """The first numbers of splitmix64, started from each of some keys.

    Whole numbers only, so that a CPU and a GPU come to the same ones; torch's own
    generators differ between the two.

    Args:
        keys: (B,), long.
        count: How many numbers for each.

    Returns:
        (B, count), long; each uniform over the 64 bits.
    """
    steps = torch.arange(1, count + 1, device=keys.device)
    state = keys[:, None] + steps * _signed(GOLDEN)  # wraps around, as it must
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        state = (state ^ _shift_right(state, shift)) * _signed(multiplier)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Shifts zeros in from the left; ``>>`` alone would copy the sign."""
    return (state >> bits) & (2 ** (64 - bits) - 1)


def _signed(word: int) -> int:
    """A number of 64 bits as torch's long has it."""
    return word - 2**64 if word >= 2**63 else word

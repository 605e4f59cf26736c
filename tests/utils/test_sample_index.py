"""SampleIndex: an int everywhere, and keys that tell all samples apart."""

from __future__ import annotations

import copy
import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from saim_mm.utils.sample_index import (
    SampleIndex,
    Stream,
    generators_of,
    seed_generators,
)


def known(index: SampleIndex) -> tuple[int, int, int, int]:
    return (int(index), index.seed, index.epoch, index.requested)


def draws() -> tuple[float, float, float]:
    return (random.random(), np.random.rand(), torch.rand(()).item())


@pytest.mark.parametrize(
    "clone",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda i, p=p: pickle.loads(pickle.dumps(i, p)) for p in range(6)),
    ],
)
def test_survives_copies(clone) -> None:
    index = SampleIndex(4, seed=7, epoch=2, requested=3)
    other = clone(index)
    assert type(other) is SampleIndex
    assert known(other) == (4, 7, 2, 3)


def test_is_an_int_that_arithmetic_leaves_informed() -> None:
    index = SampleIndex(10, seed=7, epoch=2)
    assert list(range(20))[index] == 10
    assert (index == 10, hash(index), f"{index}") == (True, hash(10), "10")
    for moved, value in (
        (index % 4, 2),
        (index - 3, 7),
        (index + 1, 11),
        (1 + index, 11),
    ):
        assert known(moved) == (value, 7, 2, 10)
        assert moved.key(Stream.ORDER) == index.key(Stream.ORDER)


def test_keys_differ_wherever_anything_does() -> None:
    keys = {
        SampleIndex(index, seed, epoch).key(stream)
        for index, seed, epoch in itertools.product(range(20), range(5), range(8))
        for stream in Stream
    }
    assert len(keys) == 20 * 5 * 8 * len(Stream)
    bits = np.array(sorted(keys), dtype=np.uint64)
    share = [((bits >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
    assert np.abs(np.array(share) - 0.5).max() < 5 * 0.5 / len(keys) ** 0.5


def test_seed_decides_all_three_generators() -> None:
    def after(key: int) -> tuple[float, float, float]:
        seed_generators(key)
        return draws()

    first, other, high = after(1), after(2), after(1 + 2**40)
    assert first == after(1)
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert first[:2] != high[:2]  # torch's on the CPU takes 32 bits


def test_generators_are_put_back() -> None:
    seed_generators(5)
    undisturbed = draws()
    seed_generators(5)
    with generators_of(SampleIndex(1, 2, 3), restore=True):
        inside = draws()
    assert draws() == undisturbed
    with generators_of(SampleIndex(1, 2, 3), restore=False):
        assert draws() == inside
    seed_generators(5)
    with generators_of(1, restore=False):
        assert draws() == undisturbed


def test_wrappers_of_datasets_hand_it_on() -> None:
    class Plain(BaseDataset):
        def load_data_list(self) -> list[dict]:
            return [dict(x=i) for i in range(5)]

    inner = Plain()
    for wrapped in (RepeatDataset(inner, 2), ConcatDataset([inner, inner])):
        for index in range(10):
            got = wrapped[SampleIndex(index, seed=7, epoch=1)]["sample_idx"]
            assert known(got) == (index % 5, 7, 1, index)

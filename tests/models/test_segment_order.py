"""The sequence of segments: at random, row by row, group by group."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from tiny import tiny_saim

from saim_mm.models import HierarchicalSegments, OrderSampler

CPU = torch.device("cpu")


def segments_of(family: OrderSampler, count: int, keyed: bool) -> list[tuple[int, ...]]:
    keys = torch.randint(2**62, (count,)) if keyed else None
    generator = torch.Generator().manual_seed(0)
    order = family.draw(count, CPU, generator, keys)
    length = family.segment_length
    place = torch.empty(family.num_patches, dtype=torch.long)
    place[family.patches_of_segment.flatten()] = torch.arange(family.num_patches)
    found = place[order] // length
    assert torch.equal(found, found[:, ::length].repeat_interleave(length, 1))
    return [tuple(row) for row in found[:, ::length].tolist()]


@pytest.mark.parametrize("keyed", [False, True])
def test_hierarchical_sequences_are_equally_likely(keyed: bool) -> None:
    """2 x 4 segments in two groups of 2 x 2: 2 * 24 * 24 sequences, and no other."""
    torch.manual_seed(0)
    sequence = HierarchicalSegments((2, 2))
    family = OrderSampler("segments", (2, 8), (1, 2), segment_order=sequence)
    left, right = (0, 1, 4, 5), (2, 3, 6, 7)
    outcomes = {
        a + b
        for first, second in ((left, right), (right, left))
        for a in itertools.permutations(first)
        for b in itertools.permutations(second)
    }
    drawn = Counter(segments_of(family, 30_000, keyed))
    assert set(drawn) <= outcomes and len(outcomes) == 1152
    mean = 30_000 / 1152
    statistic = sum((drawn[outcome] - mean) ** 2 / mean for outcome in outcomes)
    assert chi2.ppf(0.0001, 1151) < statistic < chi2.ppf(0.9999, 1151)


def test_raster_segments() -> None:
    family = OrderSampler("segments", (4, 4), (2, 2), segment_order="raster")
    state = torch.get_rng_state()
    order = family.draw(2, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    rows = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert order.tolist() == [rows, rows]


SEGMENTS: dict[str, Any] = dict(
    order="segments", segment_size=(2, 2), image_size=(16, 16)
)


def grouped(size: tuple[int, int]) -> dict[str, Any]:
    return dict(type="HierarchicalSegments", group_size=size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(segment_order="raster"), "order='segments'"),
        (dict(SEGMENTS, segment_order="columns"), "'random', 'raster'.*Hierarch"),
        (dict(segment_order=grouped((1, 2))), "order='segments'"),
        (
            dict(SEGMENTS, segment_order=grouped((2, 3))),
            r"group_size=\(2, 3\) does not tile the segment grid \(2, 2\)",
        ),
        (
            dict(
                SEGMENTS,
                segment_order="raster",
                reading=dict(type="CutReading", asked=4),
            ),
            "equally likely",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_saim(**options)


@pytest.mark.parametrize(
    ("grid", "group", "expected"),
    [
        ((4, 4), (1, 2), [[r, r, r + 1, r + 1] for r in (0, 2, 4, 6)]),
        ((4, 6), (2, 3), [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2),
    ],
)
def test_groups_of_a_grid_that_is_not_square(
    grid: tuple[int, int], group: tuple[int, int], expected: list[list[int]]
) -> None:
    groups = HierarchicalSegments(group).groups(grid)
    assert groups.view(len(expected), -1).tolist() == expected

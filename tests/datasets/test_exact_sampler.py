"""ExactSampler: one global order for any number of ranks, from any place on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader

from saim_mm.datasets import ExactSampler, SampleIndex
from saim_mm.datasets import exact_sampler as module
from saim_mm.utils.sample_index import Stream

SIZES = [1, 3, 15, 16, 17]


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch):
    """Builds the sampler of each of some ranks."""

    def build(size: int, ranks: int, **options) -> list[ExactSampler]:
        samplers = []
        for rank in range(ranks):
            monkeypatch.setattr(module, "get_dist_info", lambda r=rank: (r, ranks))
            samplers.append(ExactSampler(range(size), **{"seed": 5, **options}))
        return samplers

    return build


def joined(samplers: list[ExactSampler], count: int | None = None) -> list[SampleIndex]:
    """The global order that ranks in step go through."""
    rounds: Iterator = zip(*samplers, strict=count is None)
    return list(itertools.chain.from_iterable(itertools.islice(rounds, count)))


def epochs(indices: list[SampleIndex]) -> list[int]:
    return [index.epoch for index in indices]


@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
@pytest.mark.parametrize("size", SIZES)
def test_order_does_not_depend_on_ranks(on_ranks, size: int, ranks: int) -> None:
    alone = joined(on_ranks(size, 1))
    assert sorted(alone) == list(range(size))
    up = on_ranks(size, ranks)
    padded = joined(up)
    assert (
        [len(s) for s in up]
        == [len(padded) // ranks] * ranks
        == [-(-size // ranks)] * ranks
    )
    assert padded == [alone[i % size] for i in range(len(padded))]
    down = on_ranks(size, ranks, round_up=False)
    assert joined(down) == alone[: size // ranks * ranks]
    assert [len(s) for s in down] == [size // ranks] * ranks


@pytest.mark.parametrize("size", SIZES)
def test_full_batches_do_not_depend_on_ranks(on_ranks, size: int) -> None:
    """Rounded down; rounded up, 15 images in batches of 8 would be 2 on two ranks."""
    for ranks in (1, 2, 4):
        for sampler in on_ranks(size, ranks, round_up=False):
            batches = list(BatchSampler(sampler, 8 // ranks, drop_last=True))
            assert len(batches) == size // 8


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("round_up", [True, False])
def test_start_leaves_out_what_came_before(
    on_ranks, ranks: int, round_up: bool
) -> None:
    """Once; ranks stay equally long, even from a place that is no multiple of them."""
    whole = joined(on_ranks(17, ranks, round_up=round_up))
    for start in range(0, 20):
        samplers = on_ranks(17, ranks, round_up=round_up)
        for sampler in samplers:
            sampler.start_at(start)
        rest = joined(samplers)  # strict: as many for each rank
        count = min(len(rest), max(0, len(whole) - start))
        assert rest[:count] == whole[start : start + count]
        assert joined(samplers) == whole
        assert len(samplers[0]) == len(whole) // ranks


def test_stream_goes_from_epoch_to_epoch(on_ranks) -> None:
    for ranks, start in itertools.product((1, 2, 5), (0, 1, 7, 40)):
        samplers = on_ranks(3, ranks)
        for sampler in samplers:
            sampler.endless = True
            sampler.start_at(start)
        stream = joined(samplers, 60 // ranks)
        assert epochs(stream) == [p // 3 for p in range(start, start + 60)]
        by_epoch = on_ranks(3, 1)[0]
        for index, position in zip(stream, itertools.count(start)):
            by_epoch.set_epoch(position // 3)
            assert index == list(by_epoch)[position % 3]


def test_epochs_and_seeds_give_other_orders(on_ranks) -> None:
    orders = set()
    for seed, epoch in itertools.product(range(20), range(20)):
        (sampler,) = on_ranks(16, 1, seed=seed)
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert {(i.seed, i.epoch, i.requested) for i in indices} == {
            (seed, epoch, int(i)) for i in indices
        }
        orders.add(tuple(indices))
    assert len(orders) == 400
    first = Counter(order[0] for order in orders)
    assert max(first.values()) < 50  # of 25 expected


def test_repeats_are_the_same_sample_with_other_keys(on_ranks) -> None:
    """Three in a row, which on three ranks are in one batch; a third of the images."""
    once = joined(on_ranks(15, 1))
    samplers = on_ranks(15, 3, num_repeats=3)
    rows = [joined([sampler]) for sampler in samplers]
    assert rows[0] == rows[1] == rows[2] == once[:5]
    keys = {index.key(Stream.AUGMENTATION) for row in rows for index in row}
    assert len(keys) == 15
    with pytest.raises(ValueError, match="num_repeats=0 must be positive"):
        on_ranks(15, 1, num_repeats=0)


def test_without_shuffling(on_ranks) -> None:
    assert joined(on_ranks(7, 2, shuffle=False)) == [*range(7), 0]


def test_reaches_the_dataset_through_workers() -> None:
    class Told:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> SampleIndex:
            return index

    sampler = ExactSampler(Told(), seed=5)
    loader = DataLoader(Told(), 4, sampler=sampler, num_workers=1, collate_fn=list)
    indices = [index for batch in loader for index in batch]
    assert [(int(i), i.seed, i.epoch) for i in indices] == [
        (int(i), 5, 0) for i in sampler
    ]


def test_is_built_like_the_default_sampler() -> None:
    config = dict(type="saim_mm.ExactSampler", shuffle=False, round_up=True)
    sampler = DATA_SAMPLERS.build(config, default_args=dict(dataset=[1], seed=None))
    assert isinstance(sampler.seed, int)
    with pytest.raises(ValueError, match="list holds no image.*data_root"):
        ExactSampler([])

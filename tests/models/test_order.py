"""The family of orders: what may be drawn, how often, and from which randomness."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from mmpretrain.structures import DataSample
from scipy.stats import chi2
from tiny import tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM, OrderSampler
from saim_mm.models import order as order_module
from saim_mm.utils.sample_index import SampleIndex, Stream
from saim_mm.utils.sample_keys import keys_of
from saim_mm.utils.splitmix64 import GOLDEN, hash_keys, mix64

CPU = torch.device("cpu")
FAMILY = {
    "stochastic": OrderSampler("stochastic", (4, 6)),
    "raster": OrderSampler("raster", (4, 6)),
    "segments": OrderSampler("segments", (4, 6), (2, 3)),
}


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _assert_uniform(draws: Tensor, outcomes: list[tuple[int, ...]]) -> None:
    """Chi-square test that every outcome is equally likely, at the 0.1 % level."""
    counts = Counter(map(tuple, draws.tolist()))
    assert set(counts) == set(outcomes)
    expected = len(draws) / len(outcomes)
    statistic = sum((counts[o] - expected) ** 2 / expected for o in outcomes)
    assert statistic < chi2.ppf(0.999, df=len(outcomes) - 1)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_row_is_a_permutation(kind: str) -> None:
    order = FAMILY[kind].draw(200, CPU)
    assert order.dtype == torch.long
    assert torch.equal(order.sort(1).values, torch.arange(24).expand(200, -1))


def test_stochastic_orders_are_equally_likely() -> None:
    """All 24 orders of 4 patches, in 24,000 draws."""
    draws = OrderSampler("stochastic", (2, 2)).draw(24_000, CPU, _seeded(0))
    _assert_uniform(draws, list(itertools.permutations(range(4))))


def test_segment_orders_are_equally_likely() -> None:
    """All 24 sequences of the four 1 x 2 tiles of a 2 x 4 grid; tiles stay whole."""
    draws = OrderSampler("segments", (2, 4), (1, 2)).draw(24_000, CPU, _seeded(0))
    tiles = [(0, 1), (2, 3), (4, 5), (6, 7)]
    outcomes = [sum(tiling, ()) for tiling in itertools.permutations(tiles)]
    _assert_uniform(draws, outcomes)


def test_raster_is_row_by_row() -> None:
    order = FAMILY["raster"].draw(3, CPU)
    assert torch.equal(order, torch.arange(24).expand(3, -1))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 6), (4, 1), (2, 2), (4, 6)])
def test_segments_are_rectangles_of_the_grid(size: tuple[int, int]) -> None:
    """Each run of rows x columns patches fills one tile of the grid."""
    order = OrderSampler("segments", (4, 6), size).draw(20, CPU)
    runs = order.unflatten(1, (-1, size[0] * size[1]))
    for axis, extent in ((runs // 6, size[0]), (runs % 6, size[1])):
        first = axis.amin(-1)
        assert (first % extent == 0).all()
        assert (axis.amax(-1) - first == extent - 1).all()


@pytest.mark.parametrize("kind", ["stochastic", "segments"])
def test_seed_reproduces(kind: str) -> None:
    """The global seed fixes a whole run of steps; another seed gives another run."""

    def run(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [FAMILY[kind].draw(4, CPU) for _ in range(3)]

    assert torch.equal(torch.stack(run(1)), torch.stack(run(1)))
    assert not torch.equal(torch.stack(run(1)), torch.stack(run(2)))


def test_steps_and_samples_differ() -> None:
    """No two of 32 samples in 4 steps share an order (24! are possible)."""
    draws = torch.cat([FAMILY["stochastic"].draw(32, CPU) for _ in range(4)])
    assert len(draws.unique(dim=0)) == len(draws)


def test_ranks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that are seeded alike, as MMEngine does, draw different orders."""
    draws = []
    for rank in range(4):
        monkeypatch.setattr(order_module, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        draws.append(FAMILY["stochastic"].draw(32, CPU))
    draws = torch.cat(draws)
    assert len(draws.unique(dim=0)) == len(draws)


def test_generator_is_the_only_randomness_when_given() -> None:
    """A generator decides alone, and the global state is left as it was."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = FAMILY["stochastic"].draw(8, CPU, _seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(a, FAMILY["stochastic"].draw(8, CPU, _seeded(5)))
    assert not torch.equal(a, FAMILY["stochastic"].draw(8, CPU, _seeded(6)))


def test_predictions_come_back_in_raster_order() -> None:
    """Permuting images and orders of a batch together changes nothing else.

    And in raster order, where sorting is the identity, so is unsorting.
    """
    model = tiny_saim()
    images = tiny_images(model, 5)
    order = model.order_sampler.draw(5, CPU)
    shuffle = torch.randperm(5)
    a = model.predict_patches(images, order)
    b = model.predict_patches(images[shuffle], order[shuffle])
    torch.testing.assert_close(a[shuffle], b)
    # The patch that comes first sees the class token only, so its prediction is that
    # of its place: the same in every image that begins there.
    first = order[:, 0]
    for place in range(6):
        same_start = torch.tensor([[place, *(set(range(6)) - {place})]]).expand(5, -1)
        c = model.predict_patches(images, same_start)[:, place]
        torch.testing.assert_close(c, c[:1].expand_as(c))
        hit = first == place
        torch.testing.assert_close(a[hit, place], c[hit])


# Where an order comes from: argument, else data samples, else drawn.


def _samples(orders: Tensor | list[Tensor | None]) -> list[DataSample]:
    samples = [DataSample() for _ in orders]
    for sample, order in zip(samples, orders, strict=True):
        if order is not None:
            sample.set_field(order, "order")
    return samples


def _loss(model: SAIM, images: Tensor, **kwargs: object) -> float:
    return model.loss(images, **kwargs)["loss"].item()


def test_order_of_samples_is_used() -> None:
    """Orders in the data samples give the loss that they give as an argument."""
    model = tiny_saim()
    images = tiny_images(model, 3)
    order, other = model.order_sampler.draw(3, CPU), model.order_sampler.draw(3, CPU)
    expected = _loss(model, images, order=order)
    assert _loss(model, images, data_samples=_samples(order)) == expected
    assert _loss(model, images, data_samples=_samples(other)) != expected
    as_model = model(images, _samples(order), mode="loss")["loss"].item()
    assert as_model == expected  # the way that Runner and DDP take
    as_arrays = _samples([o.numpy() for o in order])
    assert _loss(model, images, data_samples=as_arrays) == expected


def test_argument_beats_samples() -> None:
    model = tiny_saim()
    images = tiny_images(model, 3)
    order, other = model.order_sampler.draw(3, CPU), model.order_sampler.draw(3, CPU)
    both = _loss(model, images, data_samples=_samples(other), order=order)
    assert both == _loss(model, images, order=order)


@pytest.mark.parametrize("samples", [None, [], _samples([None] * 3)])
def test_without_an_order_one_is_drawn(samples: list[DataSample] | None) -> None:
    model = tiny_saim()
    images = tiny_images(model, 3)
    torch.manual_seed(7)
    drawn = _loss(model, images, data_samples=samples)
    torch.manual_seed(7)
    order = model.order_sampler.draw(3, CPU)
    assert drawn == _loss(model, images, order=order)
    assert drawn != _loss(model, images, data_samples=samples)  # the next step


def test_predict_patches_draws_too() -> None:
    model = tiny_saim()
    images = tiny_images(model, 3)
    torch.manual_seed(7)
    drawn = model.predict_patches(images)
    torch.manual_seed(7)
    order = model.order_sampler.draw(3, CPU)
    assert torch.equal(drawn, model.predict_patches(images, order))


def test_predict_mode_predicts_every_patch() -> None:
    """As ``predict_patches`` does, drawn or in the order of the samples."""
    model = tiny_saim()
    images = tiny_images(model, 3)
    order = model.order_sampler.draw(3, CPU)
    expected = model.predict_patches(images, order)
    found = model(images, _samples(order), mode="predict")
    assert found.shape == (3, 6, 48) and torch.equal(found, expected)
    torch.manual_seed(7)
    drawn = model.predict_patches(images)
    torch.manual_seed(7)
    assert torch.equal(drawn, model(images, mode="predict"))
    with pytest.raises(RuntimeError, match="Invalid mode"):
        model(images, mode="perdict")


def test_some_samples_with_an_order_and_some_without() -> None:
    model = tiny_saim()
    order = torch.arange(6)
    with pytest.raises(ValueError, match=r"samples \[1\] of 3 have no field 'order'"):
        samples = _samples([order, None, order])
        model.loss(tiny_images(model, 3), data_samples=samples)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (torch.arange(6).expand(2, -1), r"\(2, 6\).*must.*\(3, 6\)"),
        (torch.arange(5).expand(3, -1), r"\(3, 5\).*must.*\(3, 6\)"),
        (torch.arange(6), r"\(6,\).*must.*\(3, 6\)"),
        (torch.arange(6).int().expand(3, -1), r"torch.int32.*must be a torch.long"),
        (torch.zeros(3, 6, dtype=torch.long), "not a permutation of 0..5.*randperm"),
        (torch.arange(1, 7).expand(3, -1), "not a permutation of 0..5"),
        (torch.arange(6).expand(3, -1) - 1, "not a permutation of 0..5"),
    ],
    ids=["batch", "length", "1-d", "int32", "repeated", "from-one", "negative"],
)
def test_what_is_no_order_is_refused(order: Tensor, message: str) -> None:
    """By the loss and by the predictions, as an argument."""
    model = tiny_saim()
    images = tiny_images(model, 3)
    with pytest.raises(ValueError, match=message):
        model.loss(images, order=order)
    with pytest.raises(ValueError, match=message):
        model.predict_patches(images, order=order)


# Orders that follow from the sample.


def _keys(count: int, seed: int = 0, epoch: int = 0) -> Tensor:
    indices = [SampleIndex(i, seed, epoch) for i in range(count)]
    return keys_of(indices, Stream.ORDER, CPU)


def _drawn(samples: list[int], epoch: int = 0, requested: int | None = None) -> list:
    return [
        DataSample(metainfo=dict(sample_idx=SampleIndex(i, 0, epoch, requested)))
        for i in samples
    ]


def test_keyed_orders_are_equally_likely() -> None:
    """All 24 orders of 4 patches, of 24,000 samples; and the same of one sample."""
    outcomes = list(itertools.permutations(range(4)))
    order = OrderSampler("stochastic", (2, 2))
    _assert_uniform(order.draw(24_000, CPU, keys=_keys(24_000)), outcomes)
    keys = torch.cat([_keys(1, epoch=epoch) for epoch in range(24_000)])
    _assert_uniform(order.draw(24_000, CPU, keys=keys), outcomes)


def test_keyed_segments_are_equally_likely() -> None:
    draws = OrderSampler("segments", (2, 4), (1, 2)).draw(
        24_000, CPU, keys=_keys(24_000)
    )
    tiles = [(0, 1), (2, 3), (4, 5), (6, 7)]
    outcomes = [sum(tiling, ()) for tiling in itertools.permutations(tiles)]
    _assert_uniform(draws, outcomes)


def test_keyed_steps_are_equally_likely() -> None:
    order = OrderSampler("stochastic", (2, 2), query_share=0.5)
    draws = [order.draw_ranks(CPU, key=key[None]) for key in _keys(6_000)]
    _assert_uniform(torch.stack(draws), list(itertools.combinations(range(4), 2)))


def test_orders_are_those_of_earlier_runs() -> None:
    """Random numbers in rising order: a run that goes on, of whatever version."""
    order, keys = OrderSampler("stochastic", (4, 6)), _keys(12)
    wanted = hash_keys(keys, 24).argsort(dim=1, stable=True)
    assert torch.equal(order.draw(12, CPU, keys=keys), wanted)
    drawn = order.draw(12, CPU, torch.Generator().manual_seed(0))
    numbers = torch.rand(12, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, numbers.argsort(dim=1))


@pytest.mark.parametrize("kind", FAMILY)
def test_keyed_orders_do_not_depend_on_the_batch(kind: str) -> None:
    """Nor on the generator, which stays as it was."""
    keys, state = _keys(12), torch.get_rng_state()
    whole = FAMILY[kind].draw(12, CPU, keys=keys)
    assert torch.equal(whole.sort(1).values, torch.arange(24).expand(12, -1))
    parts = [FAMILY[kind].draw(4, CPU, keys=keys[r::3]) for r in range(3)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
    assert torch.equal(torch.get_rng_state(), state)


def test_hash_is_splitmix64() -> None:
    """Word by word as Python's whole numbers have it, for keys of either sign."""
    keys = [0, 1, 2**63 - 1, -(2**63), -1]
    hashed = hash_keys(torch.tensor(keys), 5)
    for key, row in zip(keys, hashed.tolist(), strict=True):
        expected = [mix64(key + step * GOLDEN) for step in range(5)]
        assert [number % 2**64 for number in row] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_draws_the_orders_of_the_cpu() -> None:
    keys, order = _keys(512), OrderSampler("stochastic", (14, 14))
    on_gpu = order.to("cuda").draw(512, torch.device("cuda"), keys=keys.cuda())
    assert torch.equal(on_gpu.cpu(), order.to("cpu").draw(512, CPU, keys=keys))


def test_loss_takes_the_order_of_the_sample() -> None:
    """Whatever the generator says; another epoch has another order."""
    model = tiny_saim()
    images = tiny_images(model, 3)
    drawn = _loss(model, images, data_samples=_drawn([4, 0, 9]))
    assert drawn == _loss(model, images, data_samples=_drawn([4, 0, 9]))
    assert drawn != _loss(model, images, data_samples=_drawn([4, 0, 9], epoch=1))
    indices = [SampleIndex(i, 0, 0) for i in (4, 0, 9)]
    order = model.order_sampler.draw(3, CPU, keys=keys_of(indices, Stream.ORDER, CPU))
    assert drawn == _loss(model, images, order=order)
    samples = _drawn([4, 0, 9])
    for sample, row in zip(samples, order.flip(1), strict=True):
        sample.set_field(row, "order")  # given: it wins
    assert _loss(model, images, data_samples=samples) == pytest.approx(
        _loss(model, images, order=order.flip(1)), abs=0
    )


def test_replaced_image_keeps_the_order_that_was_asked_for() -> None:
    model = tiny_saim()
    images = tiny_images(model, 1)
    asked = _loss(model, images, data_samples=_drawn([4]))
    assert asked == _loss(model, images, data_samples=_drawn([5], requested=4))
    assert asked != _loss(model, images, data_samples=_drawn([5]))


def test_query_ranks_follow_from_the_first_sample() -> None:
    """By a stream of their own: otherwise they would hang on the order's numbers."""
    model = tiny_saim(query_share=0.5)
    images = tiny_images(model, 3)
    plan = model.plan(images, _drawn([4, 0, 9]))
    first = [SampleIndex(4, 0, 0)]
    key = keys_of(first, Stream.QUERY_STEPS, CPU)
    assert torch.equal(plan.query_ranks, model.order_sampler.draw_ranks(CPU, key=key))
    again = model.plan(images, _drawn([4, 8, 7]))
    assert torch.equal(again.query_ranks, plan.query_ranks)
    draws = [model.plan(images, _drawn([i, 0, 9])).query_ranks for i in range(20)]
    assert len({tuple(ranks.tolist()) for ranks in draws}) > 5


def test_query_steps_follow_from_the_first_sample() -> None:
    model = tiny_saim(query_share=0.5)
    images = tiny_images(model, 3)
    drawn = _loss(model, images, data_samples=_drawn([4, 0, 9]))
    assert drawn == _loss(model, images, data_samples=_drawn([4, 0, 9]))

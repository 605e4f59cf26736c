"""Orders read in part: what they estimate, what they see, and that off is off."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import torch
from dependence import dependence
from mmengine.logging import MessageHub
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from scipy.stats import chi2
from tiny import randomise, relative, tiny_backbone, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.datasets import SampleIndex
from saim_mm.models import SAIM, Plan
from saim_mm.models.order import Scope
from saim_mm.models.plan import sort_tokens

CPU = torch.device("cpu")
CUT = dict(type="CutReading", asked=2)
STRATA = dict(type="StrataReading", strata=2)
FOUR = dict(image_size=(8, 8))  # 2 x 2 patches, which have 24 orders


def fixed(read: int, **options: Any) -> dict[str, Any]:
    return dict(type="FixedReading", read=read, **options)


def prefix(length: int | str = "uniform", **options: Any) -> dict[str, Any]:
    return dict(type="PrefixReading", prefix=length, **options)


def ranks_of(scope: Scope) -> Iterator[tuple[int, ...]]:
    """All that may be drawn, equally likely."""
    if not scope.stratified:
        yield from itertools.combinations(scope.allowed, scope.asked)
        return
    size = len(scope.allowed) // scope.asked
    strata = [scope.allowed[i * size : (i + 1) * size] for i in range(scope.asked)]
    yield from itertools.product(*strata)


def plans(model: SAIM, order: Tensor) -> Iterator[tuple[float, Plan]]:
    """Every outcome for an order, with its probability."""
    family = model.order_sampler
    total = sum(scope.weight for scope in family.scopes)
    for scope in family.scopes:
        outcomes = list(ranks_of(scope))
        for ranks in outcomes:
            whole = len(ranks) == len(scope.allowed)
            asked = scope.allowed if whole else torch.tensor(ranks)
            plan = family.plan_of(
                order, asked, scope.read, scope.prefix, scope.allowed.start
            )
            yield scope.weight / total / len(outcomes), plan


def errors(model: SAIM, images: Tensor, plan: Plan) -> Tensor:
    """Mean squared error (B, K) of each asked patch, in the model's precision."""
    target = sort_tokens(model.head.target(images).to(images.dtype), plan.asked)
    return (model.predict_asked(images, plan) - target).square().mean(-1)


def expected(model: SAIM, images: Tensor, order: Tensor) -> Tensor:
    """The loss in the mean over all that may be drawn."""
    outcomes = plans(model, order)
    return sum(p * errors(model, images, plan).mean() for p, plan in outcomes)


def double(**options: Any) -> SAIM:
    return tiny_saim(**{"smoothing": None, **options}).double()


def all_orders(model: SAIM) -> tuple[Tensor, Tensor]:
    """An image in all orders there are."""
    family = model.order_sampler
    segments = torch.tensor(
        list(itertools.permutations(range(len(family.patches_of_segment))))
    )
    order = family.patches_of_segment[segments].flatten(1)
    return tiny_images(model, 1).double().expand(len(order), -1, -1, -1), order


def gradients(model: SAIM, loss: Tensor) -> list[Tensor]:
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        torch.zeros_like(w) if g is None else g
        for w, g in zip(weights, found, strict=True)
    ]


def assert_same(model: SAIM, ours: Tensor, theirs: Tensor) -> None:
    """Loss and every gradient, to 1e-12."""
    assert abs(ours - theirs).item() < 1e-12
    pairs = zip(gradients(model, ours), gradients(model, theirs), strict=True)
    for ours_, theirs in pairs:
        assert (ours_ - theirs).abs().max() <= 1e-12 * max(1, theirs.abs().max())


UNBIASED: dict[str, dict[str, Any]] = {
    "cut-1": dict(reading=dict(CUT, asked=1), **FOUR),
    "cut-2": dict(reading=CUT, **FOUR),
    "cut-2-one-layer": dict(reading=CUT, depth=1, **FOUR),
    "cut-2-tied": dict(reading=CUT, tied_decoder=True, **FOUR),
    "strata-2": dict(reading=STRATA, **FOUR),
    "strata-4": dict(reading=dict(STRATA, strata=4), **FOUR),
    "stratified": dict(reading=fixed(4, asked=2, stratified=True), **FOUR),
    "uniform": dict(reading=fixed(4, asked=2), **FOUR),
    "cut-segments": dict(
        reading=dict(CUT, asked=3),
        order="segments",
        segment_size=(1, 2),
        image_size=(8, 16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_for_the_whole_loss(name: str) -> None:
    """The mean over all outcomes and all orders, loss and gradients."""
    model = double(**UNBIASED[name])
    images, order = all_orders(model)
    whole = errors(model, images, model.order_sampler.plan_of(order)).mean()
    mean = expected(model, images, order)
    assert_same(model, mean, whole)


ORDERS = [dict(), dict(order="raster"), dict(order="raster", depth=0)]
DEPTHS = [dict(), dict(depth=2), dict(depth=1), dict(tied_decoder=True)]


@pytest.mark.parametrize("options", ORDERS, ids=str)
def test_strata_are_unbiased_for_each_order(options: dict[str, Any]) -> None:
    model = double(reading=STRATA, **FOUR, **options)
    images = tiny_images(model, 3).double()
    order = model.order_sampler.draw(3, CPU)
    whole = errors(model, images, model.order_sampler.plan_of(order)).mean()
    mean = expected(model, images, order)
    assert_same(model, mean, whole)


@pytest.mark.parametrize("asked", [1, 2, 3, 4])
@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_fixed_is_its_closed_form(read: int, asked: int) -> None:
    """(f(0) + ... + f(M-1) + (N-M) f(M)) / N, and f(M) alone if asked after M."""
    model = double(reading=fixed(read, asked=asked), **FOUR)
    images, order = all_orders(model)
    f = errors(model, images, model.order_sampler.plan_of(order)).mean(0)
    mean = expected(model, images, order)
    assert_same(model, mean, (f[:read].sum() + (4 - read) * f[read]) / 4)
    if asked <= 4 - read:
        model = double(reading=fixed(read, asked=asked, asks="after"), **FOUR)
        f = errors(model, images, model.order_sampler.plan_of(order)).mean(0)
        mean = expected(model, images, order)
        assert_same(model, mean, f[read])


def test_the_enumeration_can_fail() -> None:
    """A fixed half of the order is another loss, by much more than is allowed."""
    model = double(reading=fixed(2), **FOUR)
    images, order = all_orders(model)
    whole = errors(model, images, model.order_sampler.plan_of(order)).mean()
    ((_, plan),) = plans(model, order)
    assert abs(errors(model, images, plan).mean() - whole).item() > 1e-4


@pytest.mark.parametrize("options", DEPTHS, ids=str)
@pytest.mark.parametrize("read", [1, 2, 5])
def test_what_comes_later_changes_nothing(read: int, options: dict[str, Any]) -> None:
    """Ranks up to M are predicted as in the whole run, and M of the states are its."""
    model = double(reading=fixed(read), **options)
    images = tiny_images(model, 3).double()
    order = model.order_sampler.draw(3, CPU)
    whole = model.order_sampler.plan_of(order)
    part = model.order_sampler.plan_of(order, read=read)
    ours, theirs = errors(model, images, part), errors(model, images, whole)
    assert (ours - theirs)[:, : read + 1].abs().max() < 1e-12
    pairs = zip(
        model.backbone(images, part).states,
        model.backbone(images, whole).states,
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.shape[1] == 1 + read
        assert (ours - theirs[:, : 1 + read]).abs().max() < 1e-12


READINGS: dict[str, dict[str, Any]] = {
    "fixed": dict(reading=fixed(2, asked=4)),
    "fixed-after": dict(reading=fixed(2, asks="after")),
    "fixed-all": dict(reading=fixed(2, asked=3, asks="after", content="all")),
    "fixed-none": dict(reading=fixed(0, asked=3)),
    "cut": dict(reading=CUT),
    "cut-all": dict(reading=dict(CUT, content="all")),
    "cut-tied": dict(reading=CUT, tied_decoder=True, depth=2),
    "strata": dict(reading=dict(STRATA, strata=3)),
    "strata-raster": dict(reading=STRATA, order="raster"),
    "strata-raster-none": dict(reading=STRATA, order="raster", depth=0),
    "stratified": dict(reading=fixed(6, asked=3, stratified=True)),
    "prefix": dict(reading=prefix()),
    "prefix-2-subset": dict(reading=prefix(2, asked=2)),
    "prefix-part": dict(reading=prefix(read=4), depth=1),
    "prefix-raster": dict(reading=prefix(weight="patches"), order="raster"),
    "prefix-raster-none": dict(reading=prefix(), order="raster", depth=0),
    "prefix-no-cls": dict(reading=prefix(), with_cls_token=False),
    "prefix-raster-none-no-cls": dict(
        reading=prefix(), order="raster", depth=0, with_cls_token=False
    ),
    "segments-fixed": dict(
        reading=fixed(3, asked=4), order="segments", segment_size=(1, 3)
    ),
    "segments-fixed-all": dict(
        reading=fixed(2, asks="after", content="all"),
        order="segments",
        segment_size=(2, 1),
    ),
    "segments-cut": dict(reading=CUT, order="segments", segment_size=(2, 1)),
    "segments-strata": dict(
        reading=dict(STRATA, strata=3), order="segments", segment_size=(2, 1)
    ),
    "segments-prefix": dict(reading=prefix(), order="segments", segment_size=(2, 1)),
}


@pytest.mark.parametrize("name", READINGS)
def test_no_prediction_sees_its_patch(name: str) -> None:
    """Rank t depends on the ranks before its segment that were read, and no other."""
    model = tiny_saim(**READINGS[name])
    images = tiny_images(model, 20)
    order = model.order_sampler.draw(20, CPU)
    length, ranks = model.order_sampler.segment_length, torch.arange(6)
    for _, plan in plans(model, order):
        seen = dependence(
            lambda x, plan=plan: model.predict_asked(x, plan), images, order, (4, 4)
        )
        asked = ranks if plan.query_ranks is None else plan.query_ranks
        first = asked // length * length
        expected = (ranks < first[:, None]) & (ranks < plan.num_read)
        assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.parametrize("name", READINGS)
def test_loss_is_that_of_a_drawn_plan(name: str) -> None:
    """``SAIM.loss`` draws and uses a plan of the reading."""
    model = tiny_saim(**{"smoothing": None, **READINGS[name]})
    images = tiny_images(model, 2)
    torch.manual_seed(3)
    plan = model.plan(images)
    torch.manual_seed(3)
    loss = model.loss(images)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(errors(model, images, plan).mean().item())
    outcomes = {
        (scope.read, scope.prefix, ranks)
        for scope in model.order_sampler.scopes
        for ranks in ranks_of(scope)
    }
    ranks = range(6) if plan.query_ranks is None else plan.query_ranks.tolist()
    lengths = {(read, p) for read, p, r in outcomes if r == tuple(ranks)}
    assert plan.num_read in {read for read, _ in lengths}


@pytest.mark.parametrize("name", READINGS)
def test_plans_are_equally_likely(name: str) -> None:
    model = tiny_saim(**READINGS[name])
    family = model.order_sampler
    weights = {scope: scope.weight for scope in family.scopes}
    generator = torch.Generator().manual_seed(1)
    drawn = Counter(family.draw_scope(generator) for _ in range(2000))
    assert_in_proportion([drawn[s] for s in weights], list(weights.values()))
    for scope in family.scopes:
        if scope.asked == len(scope.allowed):
            continue
        outcomes = list(ranks_of(scope))
        ranks = Counter(
            tuple(family.draw_ranks(CPU, generator, scope=scope).tolist())
            for _ in range(100 * len(outcomes))
        )
        assert set(ranks) <= set(outcomes)
        assert_in_proportion([ranks[o] for o in outcomes], [1] * len(outcomes))


def assert_in_proportion(counts: list[int], weights: list[int]) -> None:
    expected = [sum(counts) * weight / sum(weights) for weight in weights]
    pairs = zip(counts, expected, strict=True)
    statistic = sum((count - mean) ** 2 / mean for count, mean in pairs)
    if len(counts) > 1:
        assert statistic < chi2.ppf(0.9999, len(counts) - 1)


def samples(*indices: int, seed: int = 0) -> list[DataSample]:
    return [
        DataSample(metainfo=dict(sample_idx=SampleIndex(i, seed, 0))) for i in indices
    ]


@pytest.fixture
def hub() -> MessageHub:
    """A message hub of a run of its own."""
    return MessageHub.get_instance(f"reading-{uuid4()}")


def test_what_is_read_follows_from_seed_and_iteration(hub: MessageHub) -> None:
    """The same on all processes, whose samples differ; each iteration draws anew."""
    model = tiny_saim(reading=CUT)
    images = tiny_images(model, 2)

    def read(*indices: int, **options: int) -> int:
        return model.plan(images, samples(*indices, **options)).num_read

    drawn = []
    for iteration in range(40):
        hub.update_info("iter", iteration)
        drawn.append(read(0, 1))
        assert read(7, 3) == drawn[-1]
    assert set(drawn) == set(range(6))
    others = []
    for iteration in range(40):
        hub.update_info("iter", iteration)
        others.append(read(0, 1, seed=1))
    assert others != drawn


def test_outside_a_run_it_follows_from_the_first_sample(hub: MessageHub) -> None:
    model = tiny_saim(reading=CUT)
    images = tiny_images(model, 2)
    reads = [model.plan(images, samples(i, 0)).num_read for i in range(40)]
    assert reads == [model.plan(images, samples(i, 5)).num_read for i in range(40)]
    assert set(reads) == set(range(6))


def test_unread_patches_are_not_even_embedded() -> None:
    """Their pixels may be anything, and no state is as long as the order."""
    model = tiny_saim(reading=fixed(2, asks="after", content="all"))
    images = tiny_images(model, 2)
    plan = model.plan(images)
    for tile in plan.order[:, 2:].unbind(1):
        for image, index in zip(images, tile.tolist(), strict=True):
            row, column = divmod(index, 3)
            image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = torch.nan
    content = model.backbone(images, plan)
    assert all(state.shape[1] == 3 for state in content.states)
    assert model.predict_asked(images, plan).isfinite().all()


def test_some_patches_are_embedded_as_all_are() -> None:
    model = tiny_saim()
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, CPU)
    part = model.backbone(images, model.order_sampler.plan_of(order, read=4))
    whole = model.backbone(images, model.order_sampler.plan_of(order))
    assert relative(part.embeddings, whole.embeddings[:, :5]) < 1e-6


# A prefix that sees itself


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("cls", [False, True])
def test_prefix_mask_is_the_definition(length: int, cls: bool) -> None:
    model = tiny_saim(reading=prefix(length), with_cls_token=cls)
    plan = model.plan(tiny_images(model, 1))
    content, memory = plan.dense()
    for i in range(6 + cls):
        for j in range(6 + cls):
            assert content[i, j] == (j <= i or max(i, j) < length + cls)
    for row, rank in enumerate(range(length, 6)):
        for j in range(6 + cls):
            assert memory[row, j] == (j < rank + cls)
    assert plan.content_mask.attn_mask is plan.memory_mask.attn_mask is None


@pytest.mark.parametrize(
    "name", ["prefix", "prefix-raster-none", "strata", "prefix-no-cls"]
)
def test_without_a_mask_as_with_one(name: str) -> None:
    """Two calls, and rows in front, come to what the mask written out does."""
    model = double(**READINGS[name])
    images = tiny_images(model, 2).double()
    order = model.order_sampler.draw(2, CPU)
    for _, plan in plans(model, order):
        content, memory = plan.dense()
        explicit = Plan(
            **{
                **vars(plan),
                "content_mask": type(plan.content_mask)(content),
                "memory_mask": type(plan.content_mask)(memory[:, : plan.memory_tokens]),
            }
        )
        ours, theirs = (model.predict_asked(images, p) for p in (plan, explicit))
        assert (ours - theirs).abs().max() < 1e-12


def test_prefixes_of_a_part_lie_between_causal_content_and_none() -> None:
    """Of a single patch the content is causal, of all that is read it has no mask."""
    bare = dict(with_cls_token=False)  # a class token would see the patch
    shortest = double(reading=prefix(1, read=3), **bare)
    longest = double(reading=prefix(3, read=3), **bare)
    images = tiny_images(shortest, 2).double()
    order = shortest.order_sampler.draw(2, CPU)
    causal = shortest.order_sampler.plan_of(order, range(1, 6), 3, lowest=1)
    unmasked = double(reading=fixed(3, asks="after", content="all"), **bare)
    for model, other, plan in (
        (shortest, shortest, causal),
        (longest, unmasked, unmasked.plan(images, order=order)),
    ):
        ours = model.predict_asked(images, model.plan(images, order=order))
        assert torch.equal(ours, other.predict_asked(images, plan))
    (scope,) = shortest.order_sampler.scopes
    assert (scope.read, scope.allowed) == (3, range(1, 6))
    drawn = double(reading=prefix(read=3)).order_sampler.scopes
    assert [scope.prefix for scope in drawn] == [1, 2, 3]


def test_shortest_and_longest_prefix() -> None:
    """A single patch sees itself, so that is raster order; the longest asks for one."""
    options: dict[str, Any] = dict(order="raster", depth=0, with_cls_token=False)
    model = double(reading=prefix(1), **options)
    images = tiny_images(model, 2).double()
    order = model.order_sampler.draw(2, CPU)
    plan = model.plan(images)
    assert plan.asked.shape[1] == 5
    causal = model.order_sampler.plan_of(order, range(1, 6))
    assert torch.equal(
        model.predict_asked(images, plan), model.predict_asked(images, causal)
    )
    longest = double(reading=prefix(5), **options)
    assert longest.plan(images).asked.tolist() == [[5], [5]]


def test_weight_by_patches_is_the_mean_over_all_patches_of_many_images() -> None:
    """AIM draws a prefix per image, and takes one mean over all patches counted."""
    model = double(reading=prefix(weight="patches"), order="raster", depth=0)
    images = tiny_images(model, 2).double()
    order = model.order_sampler.draw(2, CPU)
    ours = expected(model, images, order)
    counted = [errors(model, images, plan) for _, plan in plans(model, order)]
    pooled = sum(e.sum() for e in counted) / sum(e.numel() for e in counted)
    assert_same(model, ours, pooled)
    steps = double(reading=prefix(), order="raster", depth=0)
    mean = expected(steps, images, order)
    assert abs(mean - ours).item() > 1e-4


# What makes no sense

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "leak": (dict(reading=fixed(2, content="all")), "asks='after'"),
    "raster-fixed": (dict(reading=fixed(2), order="raster"), "StrataReading"),
    "raster-cut": (dict(reading=CUT, order="raster"), "StrataReading"),
    "share": (dict(reading=CUT, query_share=0.5), "'asked'"),
    "transformer": (dict(reading=CUT, projector="transformer"), "projector='mlp'"),
    "strata-transformer": (
        dict(reading=STRATA, projector="transformer"),
        "projector='mlp'",
    ),
    "too-much": (dict(reading=fixed(7)), "between 0 and 6"),
    "all-read-asked-after": (dict(reading=fixed(6, asks="after")), "between 0 and 5"),
    "broken-segment": (
        dict(reading=fixed(2), order="segments", segment_size=(1, 3)),
        "multiple of 3",
    ),
    "asked-none": (dict(reading=fixed(2, asked=0)), "asked=0"),
    "asked-too-many": (dict(reading=fixed(2, asked=5, asks="after")), "4 ranks"),
    "no-divisor": (dict(reading=fixed(6, asked=4, stratified=True)), "divisor"),
    "cut-none": (dict(reading=dict(CUT, asked=0)), "asked=0"),
    "strata": (dict(reading=dict(STRATA, strata=4)), "strata=4 must divide the 6"),
    "content": (dict(reading=dict(CUT, content="some")), "'causal', 'all'"),
    "asks": (dict(reading=fixed(2, asks="before")), "'all', 'after'"),
    "weight": (dict(reading=prefix(weight="images")), "'steps', 'patches'"),
    "no-prefix": (dict(reading=prefix(0)), "between 1 and 5"),
    "prefix-of-more": (dict(reading=prefix(5, read=4)), "between 1 and 4"),
    "prefix-of-nothing": (dict(reading=prefix(read=0)), "between 1 and 5"),
    "prefix-part-raster": (dict(reading=prefix(read=4), order="raster"), "equally"),
    "all-prefix": (dict(reading=prefix(6)), "between 1 and 5"),
    "prefix-word": (dict(reading=prefix("all")), "prefix='all'"),
    "prefix-subset-none": (
        dict(reading=prefix(asked=2), order="raster", depth=0),
        "depth>=1",
    ),
    "no-cls": (dict(reading=CUT, with_cls_token=False), "with_cls_token=True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_readings_fail_when_built(name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        tiny_saim(**options)


def test_pictures_of_a_model_without_start_say_why() -> None:
    model = tiny_saim(reading=prefix(), with_cls_token=False)
    with pytest.raises(ValueError, match="nothing precedes it"):
        model.predict_patches(tiny_images(model, 1))


def test_a_part_is_embedded_as_the_whole_is() -> None:
    """With the norm that a patch embedding may have."""
    vit = MODELS.build(tiny_backbone(patch_cfg=dict(norm_cfg=dict(type="LN"))))
    randomise(vit, 0)
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([[5, 0, 2, 1, 3, 4], [1, 3, 0, 4, 2, 5]])[:, :4]
    whole = sort_tokens(vit.patch_embed(images)[0], order)
    torch.testing.assert_close(vit._embed_patches(images, order), whole)

"""What the query layers read: the layer beside them, the last one, a learnt mix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dependence import dependence
from tiny import predict, relative, tiny_images, tiny_saim

from saim_mm.models import SAIM, LayerMixNeck

CPU = torch.device("cpu")
MIX = dict(type="LayerMixNeck")
MIX_ALL = dict(type="LayerMixNeck", mix_input=True)


def copied(model: SAIM, **options: Any) -> SAIM:
    """A model with another memory and the same weights."""
    other = tiny_saim(**options)
    missing, _ = other.load_state_dict(model.state_dict(), strict=False)
    assert missing == ["neck.mix.weight"]
    return other


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("memory", ["aligned", "last"])
def test_one_hot_mixes_are_aligned_and_last(
    memory: str, depth: int, tied: bool
) -> None:
    options: dict[str, Any] = dict(depth=depth, tied_decoder=tied)
    model = tiny_saim(neck=dict(memory=memory), **options)
    for neck in (MIX, MIX_ALL):
        mixed = copied(model, neck=neck, **options)
        places = torch.arange(1, depth + 1) * 4 // depth - 1
        if memory == "last":
            places = torch.full((depth,), 3)
        places += mixed.neck.mix.weight.shape[1] - 4
        width = mixed.neck.mix.weight.shape[1]
        mixed.neck.mix.weight.data = torch.nn.functional.one_hot(places, width).float()
        images = tiny_images(model, 2)
        order = model.order_sampler.draw(2, CPU)
        ours, theirs = predict(mixed, images, order), predict(model, images, order)
        assert relative(ours, theirs) < 1e-6


def test_mix_is_the_weighted_sum() -> None:
    """Of the input and every layer; each query layer has weights of its own."""
    model = tiny_saim(depth=3, neck=MIX_ALL)
    images = tiny_images(model, 2)
    plan = model.plan(images)
    content = model.backbone(images, plan)
    maps = [content.embeddings, *content.states]
    memories = list(model.neck._memories(content, 6))
    for weights, memory in zip(model.neck.mix.weight, memories, strict=True):
        expected = sum(
            w * states[:, :6] for w, states in zip(weights, maps, strict=True)
        )
        assert relative(memory, expected) < 1e-6


def test_mix_starts_with_variance_one_over_n() -> None:
    neck = LayerMixNeck(
        100, embed_dims=16, num_heads=2, feedforward_channels=32, num_encoder_layers=40
    )
    for _ in range(2):
        assert neck.mix.weight.std().item() == pytest.approx(40**-0.5, rel=0.05)
        neck.init_weights()


READINGS: list[dict[str, Any] | None] = [
    None,
    dict(type="FixedReading", read=3),
    dict(type="FixedReading", read=3, content="all", asks="after"),
    dict(type="PrefixReading", prefix=2),
]


@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("neck", [dict(memory="last"), MIX, MIX_ALL], ids=str)
@pytest.mark.parametrize("order", ["stochastic", "segments"])
def test_no_prediction_sees_its_patch(
    order: str, neck: dict[str, Any], reading: dict[str, Any] | None
) -> None:
    segments = order == "segments"
    if segments and reading is not None:
        reading = {**reading, "read" if "read" in reading else "prefix": 2}
    model = tiny_saim(
        order=order,
        segment_size=(2, 1) if segments else None,
        depth=3,
        neck=neck,
        reading=reading,
    )
    images = tiny_images(model, 20)
    plan = model.plan(images)
    seen = dependence(
        lambda x: model.predict_asked(x, plan), images, plan.order, (4, 4)
    )
    ranks = torch.arange(6)
    asked = ranks if plan.query_ranks is None else plan.query_ranks
    first = asked // 2 * 2 if segments else asked
    expected = (ranks < first[:, None]) & (ranks < plan.num_read)
    assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(neck=dict(memory="first")), "'aligned', 'last'.*'LayerMixNeck'"),
        (dict(neck=dict(memory="mix")), "'LayerMixNeck'"),
        (dict(neck=dict(**MIX, memory="last")), "no other memory"),
        (dict(neck=dict(memory="last"), depth=0, order="raster"), "depth>=1"),
        (dict(neck=MIX, depth=0, order="raster"), "depth>=1"),
        (dict(depth=3), "memory='last'"),
        (dict(neck=MIX, depth=3, tied_decoder=True), "does not divide"),
        (dict(neck=dict(**MIX, num_encoder_layers=3)), "num_encoder_layers=3"),
    ],
)
def test_wrong_memories(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_saim(**options)

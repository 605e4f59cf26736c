"""RandSAC's decoder: queries see those of their own and of earlier segments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dependence import dependence
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM
from saim_mm.models.layers import AttentionBlock

#: As in the paper: no class token, so the first segment is not predicted.
PREFIX: dict[str, Any] = dict(
    reading=dict(type="PrefixReading", prefix=4), with_cls_token=False
)


def randsac(**options: Any) -> SAIM:
    defaults: dict[str, Any] = dict(
        image_size=(16, 16),
        order="segments",
        segment_size=(2, 2),
        segment_order=dict(type="HierarchicalSegments", group_size=(1, 2)),
        depth=2,
        neck=dict(type="RandSACNeck"),
    )
    return tiny_saim(**{**defaults, **options})


def attention(layer: AttentionBlock, x: Tensor, memory: Tensor, sees: Tensor) -> Tensor:
    attn = layer.attn
    (w_q, w_k, w_v), (b_q, b_k, b_v) = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
    x, memory = layer.ln1(x), layer.ln1(memory)
    q, k, v = (
        part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        for part in (x @ w_q.T + b_q, memory @ w_k.T + b_k, memory @ w_v.T + b_v)
    )
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~sees, -math.inf).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("options", [dict(), PREFIX], ids=["cls", "paper"])
def test_decoder_written_out(options: dict[str, Any]) -> None:
    model = randsac(**options)
    images = tiny_images(model, 2)
    plan = model.plan(images)
    content = model.backbone(images, plan)
    start = 4 if options else 0
    segment = torch.arange(start, 16) // 4
    tokens = torch.cat([torch.full((1 - start // 4,), -1), torch.arange(16) // 4])
    x = content.positions
    for i in range(2):
        neck = model.neck
        x = x + attention(neck.self_layers[i], x, x, segment[:, None] >= segment[None])
        weights = neck.mix.weight[i]
        memory = sum(w * h for w, h in zip(weights, content.states, strict=True))
        layer = neck.layers[i]
        x = x + attention(layer, x, memory, segment[:, None] > tokens[None])
        x = x + layer.ffn.layers(layer.ln2(x))
    ours = model.neck(content, plan, model.backbone.layers)
    assert relative(ours, model.neck.norm(x)) < 1e-5


@pytest.mark.parametrize("options", [dict(), PREFIX], ids=["cls", "paper"])
def test_no_prediction_sees_its_segment(options: dict[str, Any]) -> None:
    model = randsac(**options)
    images = tiny_images(model, 8)
    plan = model.plan(images)
    seen = dependence(
        lambda x: model.predict_asked(x, plan), images, plan.order, (4, 4)
    )
    ranks = torch.arange(16)
    expected = (ranks < (ranks // 4 * 4)[:, None])[16 - seen.shape[1] :]
    assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(query_share=0.5), "SAIMNeck"),
        (dict(reading=dict(type="StrataReading", strata=2)), "SAIMNeck"),
        (dict(depth=0), "depth>=1"),
        (dict(tied_decoder=True), "tied_decoder=False"),
        (dict(neck=dict(type="RandSACNeck", memory="last")), "no other memory"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        randsac(**options)

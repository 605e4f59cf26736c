"""AIM: its prefix, positions before the head, and the residual MLP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.evaluation.flops import saim_flops
from saim_mm.models import SAIM, AIMHead
from saim_mm.models.layers import AttentionBlock
from saim_mm.models.saim_head import patchify


def aim(**options: Any) -> SAIM:
    return tiny_saim(
        **{
            "order": "raster",
            "with_cls_token": False,
            "reading": dict(type="PrefixReading", weight="patches"),
            "neck": dict(_delete_=True, type="AIMNeck"),
            "head": dict(_delete_=True, type="AIMHead", num_blocks=2, width=24),
            **options,
        }
    )


def block(layer: AttentionBlock, x: Tensor, sees: Tensor) -> Tensor:
    """A pre-norm layer with everything written out."""
    attn, normed = layer.attn, layer.ln1(x)
    q, k, v = (
        part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        for part in attn.qkv(normed).chunk(3, -1)
    )
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).masked_fill(
        ~sees, -math.inf
    )
    x = x + attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return x + layer.ffn.layers(layer.ln2(x))


@pytest.mark.parametrize("length", [1, 3, 5])
def test_loss_is_aims(length: int) -> None:
    """Raster tokens, a prefix that sees itself; patch P and later from those before."""
    model = aim(reading=dict(type="PrefixReading", prefix=length))
    images = tiny_images(model, 2)
    positions = model.backbone.pos_embed
    x = model.backbone.patch_embed(images)[0] + positions
    i, j = torch.arange(6)[:, None], torch.arange(6)[None]
    for layer in model.backbone.layers:
        x = block(layer, x, (j <= i) | ((j < length) & (i < length)))
    x = model.neck.norm(x)[:, length - 1 : -1] + positions[:, length:]
    first, *blocks, norm, last = model.head.projector.to_pixels
    x = first(x)
    for each in blocks:
        x = x + each.layers(x)
    target = patchify(images, (4, 4))[:, length:]
    target = target - target.mean(-1, keepdim=True)
    target = target / (target.square().sum(-1, keepdim=True) / 47 + 1e-6).sqrt()
    expected = (last(norm(x)) - target).square().mean()
    assert model.loss(images)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_blocks_that_add_nothing_leave_the_projection() -> None:
    head = AIMHead(embed_dims=16, patch_size=(4, 4), num_blocks=3, width=24)
    first, *blocks, norm, last = head.projector.to_pixels
    for each in blocks:
        torch.nn.init.zeros_(each.layers[-1].weight)
        torch.nn.init.zeros_(each.layers[-1].bias)
    x = torch.randn(2, 5, 16)
    assert relative(head(x), last(norm(first(x)))) < 1e-6


def test_cost_of_the_papers_head() -> None:
    """79.5 GMAC and 406 million weights, in front of a ViT-B of 16-pixel patches."""
    config = dict(
        type="SAIM",
        backbone=dict(
            type="SAIMViT",
            arch="base",
            final_norm=False,
            with_cls_token=False,
            out_type="featmap",
        ),
        neck=dict(type="AIMNeck"),
        head=dict(type="AIMHead"),
        order="raster",
        reading=dict(type="PrefixReading", prefix=1),
    )
    with torch.device("meta"):
        model = MODELS.build(config)
    # The counter takes the 195 patches that are asked for.
    assert saim_flops(model).projector / 2e9 * 196 / 195 == pytest.approx(
        79.5, rel=0.01
    )
    weights = sum(p.numel() for p in model.head.parameters())
    assert weights / 1e6 == pytest.approx(406, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(order="stochastic"), "depth=0"),
        (dict(reading=None), "with_cls_token=True"),
        (dict(reading=dict(type="CutReading", asked=2)), "StrataReading"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aim(**options)

"""Attention maps are the layer's own attention, and of the right patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_backbone, tiny_images, tiny_saim

from saim_mm.visualization import attention_maps, attention_sheet, last_attention
from saim_mm.visualization.attention import patch_at

ENCODERS: dict[str, dict[str, Any]] = {
    "plain": dict(),
    "rotary, queries and keys normed": dict(type="RotaryViT", qk_norm="plain"),
    "causal": dict(visible="causal"),
    "registers, class token at the end": dict(
        type="RegisterViT", num_registers=2, cls_place="suffix"
    ),
    "bias": dict(with_cls_token=False, use_rel_pos_bias=True),
}


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_it_is_what_the_last_layer_computes(options: dict[str, Any]) -> None:
    """With its values and projection it gives the layer's output."""
    backbone = MODELS.build(tiny_backbone(**options))
    backbone.eval()  # which returns nothing
    randomise(backbone, 0)
    images = torch.randn(2, 3, 8, 12)
    layer = backbone.layers[-1]
    calls: list = []
    handle = layer.register_forward_hook(lambda _, x, out: calls.append((x[0], out)))
    attention = last_attention(backbone, images)
    handle.remove()
    (x, expected), *_ = calls
    tokens = x.shape[1]
    assert attention.shape == (2, 2, tokens, tokens)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 2, tokens), atol=1e-6)
    attn = layer.attn
    v = attn.qkv(layer.ln1(x)).unflatten(-1, (3, attn.num_heads, attn.head_dims))[
        :, :, 2
    ]
    heads = attention @ v.transpose(1, 2)
    y = x + attn.proj(heads.transpose(1, 2).flatten(2))
    assert torch.allclose(layer.ffn(layer.ln2(y), identity=y), expected, atol=1e-5)
    maps = attention_maps(backbone, images, [(0.99, 0.99)])
    last = backbone.num_extra_tokens + 5
    rows = attention.mean(1)[:, last, last - 5 : last + 1]
    assert np.allclose(maps.reshape(2, 6), rows.numpy())
    assert "attend" not in vars(layer)


def test_windows_have_no_map() -> None:
    options = dict(with_cls_token=False, window_size=2, image_size=(16, 16))
    backbone = MODELS.build(tiny_backbone(**options))
    with pytest.raises(ValueError, match=r"global_attn_indexes=\(3,\)"):
        last_attention(backbone, torch.randn(1, 3, 16, 16))
    options["global_attn_indexes"] = (3,)
    backbone = MODELS.build(tiny_backbone(**options))
    assert last_attention(backbone, torch.randn(1, 3, 16, 16)).shape[2] == 16


def test_maps_are_rows_of_the_attention() -> None:
    model = tiny_saim()
    model.train()
    images = tiny_images(model, 2)
    maps = attention_maps(model.backbone, images, [(0.5, 0.1), (0.99, 0.99)])
    rows = last_attention(model.backbone, images).mean(1)[:, [2, 6], 1:]
    assert np.allclose(maps.reshape(2, 2, 6), rows.numpy())
    assert model.backbone.training


def test_points_and_patches() -> None:
    assert [patch_at(p, (2, 3)) for p in ((0, 0), (0.99, 0), (0.34, 0.5))] == [0, 2, 4]
    for outside in ((1, 0), (-0.1, 0), (0, 1)):
        with pytest.raises(ValueError, match="outside"):
            patch_at(outside, (2, 3))


def test_sheet_has_a_column_per_point_and_model() -> None:
    originals = np.zeros((2, 8, 12, 3), np.uint8)
    maps = np.random.default_rng(0).random((2, 2, 2, 3), dtype=np.float32)
    points = [(0.2, 0.2), (0.8, 0.8)]
    one = attention_sheet(originals, {"stochastic": maps}, points)
    both = attention_sheet(originals, {"raster": maps, "stochastic": maps}, points)
    cell = 1.66 * 160
    assert one.shape[1] == pytest.approx(3 * cell, abs=2)
    assert both.shape[1] == pytest.approx(5 * cell, abs=2)

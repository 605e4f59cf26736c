"""SAIMViT without an order is mmpretrain's VisionTransformer, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.models.backbones import VisionTransformer
from tiny import randomise, relative, tiny_backbone, tiny_saim

from saim_mm.models import SAIMViT
from saim_mm.models.order import OrderSampler
from saim_mm.models.plan import SEES_ALL, sort_tokens
from saim_mm.models.saim_vit import sincos_position_embedding


def _arguments(**options: Any) -> dict[str, Any]:
    config = tiny_backbone(**options)
    config.pop("type")
    if isinstance(config.get("out_indices"), tuple):
        config["out_indices"] = list(config["out_indices"])  # mmpretrain edits it
    return config


def _twins(**options: Any) -> tuple[SAIMViT, VisionTransformer]:
    """Both classes with the same weights, loaded strictly, in evaluation mode."""
    ours = SAIMViT(**_arguments(**options))
    plain = VisionTransformer(**_arguments(**options))
    randomise(ours, seed=1)
    plain.load_state_dict(ours.state_dict(), strict=True)
    for model in (ours, plain):
        model.eval()  # returns None in mmpretrain's backbones
    return ours, plain


OPTIONS: dict[str, dict[str, Any]] = {
    "raw": dict(out_type="raw"),
    "cls_token": dict(out_type="cls_token"),
    "featmap": dict(out_type="featmap"),
    "avg_featmap": dict(out_type="avg_featmap"),
    "final_norm": dict(out_type="raw", final_norm=True),
    "several": dict(out_type="featmap", out_indices=(0, 2, -1)),
    "several-final_norm": dict(out_indices=(1, 3), final_norm=True),
    "avg_featmap-final_norm": dict(out_type="avg_featmap", final_norm=True),
    "no-cls": dict(out_type="featmap", with_cls_token=False),
    "no-cls-avg": dict(out_type="avg_featmap", with_cls_token=False, final_norm=True),
    "layer_scale": dict(layer_scale_init_value=0.1),
    "pre_norm": dict(pre_norm=True),
    "no-qkv-bias": dict(qkv_bias=False),
    "swiglu": dict(layer_cfgs=dict(ffn_type="swiglu_fused")),
    "tall-patch": dict(image_size=(12, 8), patch_size=(4, 2)),
    "5-channels": dict(channels=5),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_plain_forward_is_mmpretrains(name: str) -> None:
    """All options and outputs, at the built size and at two others."""
    ours, plain = _twins(**OPTIONS[name])
    height, width = ours.img_size
    channels = OPTIONS[name].get("channels", 3)
    for size in ((height, width), (2 * height, width), (height, 3 * width)):
        images = torch.randn(2, channels, *size)
        with torch.no_grad():
            actual, expected = ours(images), plain(images)
        assert len(actual) == len(ours.out_indices)
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dropout", ["drop_rate", "drop_path_rate", "attn_drop_rate"])
def test_dropout_is_mmpretrains(dropout: str) -> None:
    """With the same seed the same values are dropped; frozen stages drop none."""
    options: dict[str, Any] = {dropout: 0.5}
    if dropout == "attn_drop_rate":
        options = dict(layer_cfgs=options)
    for frozen in (-1, 2):
        ours = SAIMViT(**_arguments(**options, frozen_stages=frozen))
        plain = VisionTransformer(**_arguments(**options, frozen_stages=frozen))
        plain.load_state_dict(ours.state_dict())
        images = torch.randn(2, 3, 8, 12)
        outputs = []
        for model in (ours, plain):
            torch.manual_seed(3)
            outputs.append(model(images)[0])
        assert torch.equal(*outputs)
        ours.eval()
        assert not torch.equal(outputs[0], ours(images)[0])


@pytest.mark.parametrize("name", ["raw", "several-final_norm", "no-cls-avg", "swiglu"])
def test_state_dicts_load_strictly_both_ways(name: str) -> None:
    ours, plain = _twins(**OPTIONS[name])  # ours -> plain
    randomise(plain, seed=2)
    ours.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        for a, b in zip(ours(images), plain(images), strict=True):
            assert torch.equal(a, b)


def test_pretrained_encoder_is_a_plain_vit() -> None:
    """``backbone.*`` of SAIM loads strictly and gives the plain ViT's features."""
    model = tiny_saim().eval()
    prefix = "backbone."
    encoder = {
        name.removeprefix(prefix): value
        for name, value in model.state_dict().items()
        if name.startswith(prefix)
    }
    plain = VisionTransformer(**_arguments(final_norm=False))
    plain.eval()
    plain.load_state_dict(encoder, strict=True)
    images = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        assert torch.equal(model.extract_feat(images)[0], plain(images)[0])


@pytest.mark.parametrize("name", ["raw", "layer_scale", "pre_norm", "no-qkv-bias"])
def test_sorting_is_invisible_without_a_mask(name: str) -> None:
    """If all see all, every layer gives the plain ViT's states in the order's order."""
    ours, plain = _twins(**{**OPTIONS[name], "out_indices": (0, 1, 2, 3)})
    images = torch.randn(5, 3, 8, 12)
    plan = OrderSampler("stochastic", (2, 3)).plan(5, images.device)
    order, plan = plan.order, replace(plan, content_mask=SEES_ALL)
    with torch.no_grad():
        states = ours(images, plan).states
        for state, raster in zip(states, plain(images), strict=True):
            expected = torch.cat([raster[:, :1], sort_tokens(raster[:, 1:], order)], 1)
            assert relative(state, expected) < 1e-6


# Position embedding


def _mae_embedding(rows: int, columns: int, width: int) -> np.ndarray:
    """MAE's formula, one number at a time: first half column, second half row."""
    table = np.zeros((rows * columns, width))
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                omega = 1.0 / 10000 ** (i / (width / 4.0))
                table[row * columns + column, i::quarter] = [
                    np.sin(column * omega),
                    np.cos(column * omega),
                    np.sin(row * omega),
                    np.cos(row * omega),
                ]
    return table


@pytest.mark.parametrize(("grid", "width"), [((3, 3), 16), ((2, 5), 24), ((4, 1), 8)])
def test_position_embedding_is_maes(grid: tuple[int, int], width: int) -> None:
    actual = sincos_position_embedding(grid, width)
    np.testing.assert_allclose(actual, _mae_embedding(*grid, width), atol=1e-6)


def test_position_embedding_is_fixed_in_pretraining_only() -> None:
    """SAIM neither trains nor alters it; fine-tuning (a bare SAIMViT) trains it."""
    model = tiny_saim()
    assert not model.backbone.pos_embed.requires_grad
    frozen = [k for k, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["backbone.pos_embed"]
    assert all(p.requires_grad for p in SAIMViT(**_arguments()).parameters())

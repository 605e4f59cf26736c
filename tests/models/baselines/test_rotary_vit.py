"""Rotary positions, norms of queries and keys, LayerScale and SwiGLU."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dependence import dependence
from mmpretrain.registry import MODELS
from tiny import randomise, relative, tiny_backbone, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.api import convert
from saim_mm.models import SAIM, RotaryViT
from saim_mm.models.layers import turn
from saim_mm.weights import CheckpointError, load_encoder

CPU = torch.device("cpu")
SWIGLU = dict(ffn_type="swiglu_fused")


def rotary(**options: Any) -> dict[str, Any]:
    return tiny_backbone(type="RotaryViT", out_type="raw", **options)


def saim(reading: dict[str, Any] | None = None, **options: Any) -> SAIM:
    config = dict(
        type="SAIM",
        backbone=rotary(**options),
        neck=dict(type="SAIMNeck", depth=2),
        head=dict(type="SAIMHead"),
        reading=reading,
    )
    model = MODELS.build(config)
    randomise(model, 0)
    torch.nn.init.zeros_(model.backbone.pos_embed)
    return model


def test_tables_are_timms() -> None:
    timm = pytest.importorskip("timm.layers", reason="no timm")
    if not hasattr(timm, "RotaryEmbeddingDinoV3"):
        pytest.skip("a timm without DINOv3")
    theirs = timm.RotaryEmbeddingDinoV3(8, feat_shape=(2, 3), rotate_half=True)
    sin, cos = theirs.get_embed().chunk(2, dim=-1)
    angles = MODELS.build(rotary())._angles((2, 3))
    torch.testing.assert_close(angles.cos(), cos, rtol=0, atol=1e-5)
    torch.testing.assert_close(angles.sin(), sin, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_layer_is_that_of_dinov3(gated: bool) -> None:
    """With LayerScale, and with a gated network."""
    dinov3 = pytest.importorskip("transformers.models.dinov3_vit.modeling_dinov3_vit")
    config = dinov3.DINOv3ViTConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=4,
        intermediate_size=24 if gated else 32,
        image_size=12,
        patch_size=4,
        key_bias=True,
        use_gated_mlp=gated,
        layer_norm_eps=1e-6,
        num_register_tokens=0,
        hidden_act="silu" if gated else "gelu",
    )
    config._attn_implementation = "eager"
    ours = MODELS.build(
        rotary(
            image_size=(12, 12),
            layer_scale_init_value=0.1,
            layer_cfgs=SWIGLU if gated else dict(),
        )
    )
    randomise(ours, 0)
    layer, theirs = ours.layers[1], dinov3.DINOv3ViTLayer(config)
    theirs.load_state_dict(_their_state(layer, gated), strict=True)
    x = torch.randn(2, 10, 16)
    embedding = dinov3.DINOv3ViTRopePositionEmbedding(config).eval()
    tables = embedding(torch.zeros(1, 3, 12, 12))
    turns = ours._turns_of_grid((3, 3))
    expected = theirs(x, position_embeddings=tables)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert relative(layer(x, turns=turns), expected) < 1e-5


def _their_state(layer: torch.nn.Module, gated: bool) -> dict[str, Tensor]:
    names: dict[str, Any] = {
        "norm1": layer.ln1,
        "norm2": layer.ln2,
        "attention.o_proj": layer.attn.proj,
    }
    state = {
        "layer_scale1.lambda1": layer.attn.gamma1.weight,
        "layer_scale2.lambda1": layer.ffn.gamma2.weight,
    }
    for kind in ("weight", "bias"):
        thirds = getattr(layer.attn.qkv, kind).chunk(3)
        for name, third in zip("qkv", thirds, strict=True):
            state[f"attention.{name}_proj.{kind}"] = third
        if gated:
            gate, up = getattr(layer.ffn.w12, kind).chunk(2)
            state |= {f"mlp.gate_proj.{kind}": gate, f"mlp.up_proj.{kind}": up}
            state[f"mlp.down_proj.{kind}"] = getattr(layer.ffn.w3, kind)
        else:
            names |= {
                "mlp.up_proj": layer.ffn.layers[0][0],
                "mlp.down_proj": layer.ffn.layers[1],
            }
        for name, module in names.items():
            state[f"{name}.{kind}"] = getattr(module, kind)
    return state


def test_a_token_is_turned_by_where_its_patch_stands() -> None:
    """Seeing all, two orders agree patch by patch: only the place of a patch counts."""
    model = saim(reading=dict(type="FixedReading", read=5, asks="after", content="all"))
    images = tiny_images(model, 2)
    family = model.order_sampler
    outputs = []
    for start in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 3, 1, 5]):
        order = torch.tensor([start, start])
        plan = family.plan_of(order, range(5, 6), read=5, prefix=5)
        states = model.backbone(images, plan).states[-1][:, 1:]
        unsorted = states[:, order[0, :5].argsort()]
        outputs.append((unsorted, model.predict_asked(images, plan)))
    for ours, theirs in zip(*outputs, strict=True):
        assert relative(ours, theirs) < 1e-5
    moved = images.clone()
    moved[..., :4, :4], moved[..., :4, 4:8] = images[..., :4, 4:8], images[..., :4, :4]
    assert relative(model.predict_asked(moved, plan), outputs[0][1]) > 1e-3


def test_scores_depend_on_differences_of_places_only() -> None:
    q, k = torch.randn(2, 1, 2, 5, 8).double()
    frequencies = torch.rand(8).double()[:4].tile(2)

    def scores(shift: float) -> Tensor:
        angles = (torch.arange(5).double() + shift)[:, None] * frequencies
        pair = angles.cos(), angles.sin()
        # In float64 what `turn` does in float32.
        turned = [
            x * pair[0] + torch.cat([-x[..., 4:], x[..., :4]], -1) * pair[1]
            for x in (q, k)
        ]
        for x, expected in zip((q, k), turned, strict=True):
            assert relative(turn(x, *pair), expected) < 1e-6
        return turned[0] @ turned[1].transpose(2, 3)

    assert relative(scores(3.7), scores(0)) < 1e-12


@pytest.mark.parametrize("qk_norm", ["plain", "affine"])
def test_normed_queries_have_no_scale(qk_norm: str) -> None:
    """Three times the queries, and nothing changes; without norms it does."""
    for kind, same in ((qk_norm, True), ("off", False)):
        model = saim(qk_norm=kind)
        images = tiny_images(model, 2)
        before = model.backbone(images)[-1]
        with torch.no_grad():
            for layer in model.backbone.layers:
                layer.attn.qkv.weight[:16] *= 3
                layer.attn.qkv.bias[:16] *= 3
        assert (relative(model.backbone(images)[-1], before) < 1e-3) == same
    keys = [key for key in saim(qk_norm=qk_norm).state_dict() if "_norm.weight" in key]
    assert len(keys) == (8 if qk_norm == "affine" else 0)


def test_layers_scaled_by_nothing_do_nothing() -> None:
    model = saim(layer_scale_init_value=1e-5)
    for layer in model.backbone.layers:
        torch.nn.init.zeros_(layer.attn.gamma1.weight)
        torch.nn.init.zeros_(layer.ffn.gamma2.weight)
    images = tiny_images(model, 2)
    content = model.backbone(images, model.plan(images))
    assert torch.equal(content.states[-1], content.embeddings)


@pytest.mark.parametrize("visible", ["all", "causal"])
def test_without_a_plan_as_with_that_of_raster_order(visible: str) -> None:
    model = saim(visible=visible, qk_norm="plain")
    images = tiny_images(model, 2)
    order = torch.arange(6).expand(2, -1)
    prefix = 0 if visible == "causal" else 6
    plan = model.order_sampler.plan_of(order, prefix=prefix)
    ours, theirs = model.backbone(images)[-1], model.backbone(images, plan).states[-1]
    assert relative(ours, theirs) < 1e-6


READINGS: list[dict[str, Any] | None] = [
    None,
    dict(type="CutReading", asked=2),
    dict(type="PrefixReading", prefix=2),
    dict(type="FixedReading", read=3, asks="after", content="all"),
]


@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("position", ["rope", "both"])
def test_no_prediction_sees_its_patch(
    position: str, reading: dict[str, Any] | None
) -> None:
    parts = dict(qk_norm="affine", layer_scale_init_value=1e-5, layer_cfgs=SWIGLU)
    model = saim(reading, position=position, **parts)
    images = tiny_images(model, 20)
    plan = model.plan(images)
    rows = partial(model.predict_asked, plan=plan)
    seen = dependence(rows, images, plan.order, (4, 4))
    ranks = torch.arange(6)
    asked = ranks if plan.query_ranks is None else plan.query_ranks
    expected = (ranks < asked[:, None]) & (ranks < plan.num_read)
    assert torch.equal(seen, expected.expand_as(seen))


def test_start_of_the_weights() -> None:
    """Rotary alone has no embedding at the input; halves of SwiGLU are drawn alone."""
    backbone = MODELS.build(rotary(layer_cfgs=SWIGLU))
    backbone.init_weights()
    assert not backbone.pos_embed.any() and not backbone.pos_embed.requires_grad
    both = MODELS.build(rotary(position="both"))
    both.init_weights()
    assert both.pos_embed.any()
    for layer in backbone.layers:
        for half in layer.ffn.w12.weight.chunk(2):
            bound = math.sqrt(6 / sum(half.shape))
            assert 0.9 * bound < half.abs().max() <= bound
    affine = MODELS.build(rotary(qk_norm="affine"))
    affine.init_weights()  # norms of heads have no bias
    assert all((layer.q_norm.weight == 1).all() for layer in affine.layers)


def test_rescaling_is_of_training_only() -> None:
    backbone = MODELS.build(rotary(rope_rescale=2.0))
    plain = MODELS.build(rotary())
    expected = plain._angles((2, 3))
    factors = [(backbone._angles((2, 3)) / expected)[0, 0].item() for _ in range(200)]
    assert 0.5 <= min(factors) < 0.6 and 1.8 < max(factors) <= 2
    assert abs(sum(map(math.log, factors))) < 40
    backbone.eval()
    assert torch.equal(backbone._angles((2, 3)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(position="sincos"), "'rope', 'both'"),
        (dict(qk_norm="rms"), "'off', 'plain', 'affine'"),
        (dict(embed_dims=12, num_heads=2), r"\(6\)"),
        (dict(window_size=2, with_cls_token=False), "windows"),
        (dict(rope_rescale=0.5), "greater than 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(rotary(**options))


def test_it_is_off_elsewhere() -> None:
    assert not tiny_saim().backbone.rotary
    assert issubclass(RotaryViT, type(tiny_saim().backbone))


@pytest.mark.parametrize(
    ("written", "read", "named"),
    [
        (rotary(), tiny_backbone(), "frequencies"),
        (tiny_backbone(), rotary(), "frequencies"),
        (rotary(qk_norm="plain"), rotary(), "qk_norm"),
        (rotary(), rotary(qk_norm="plain"), "qk_norm"),
    ],
    ids=["plain", "rotary", "unnormed", "normed"],
)
def test_no_other_attention_takes_its_weights(
    written: dict[str, Any], read: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """All parameters fit, and it would see something else."""
    path = tmp_path / "encoder.pth"
    torch.save(dict(state_dict=MODELS.build(written).state_dict()), path)
    with pytest.raises(CheckpointError, match=named):
        load_encoder(MODELS.build(read), path)
    load_encoder(MODELS.build(written), path)


def test_no_conversion_leaves_the_turns_out(tmp_path: Path) -> None:
    src, dst = tmp_path / "epoch_1.pth", tmp_path / "encoder.pth"
    torch.save(dict(state_dict=saim(image_size=(8, 8)).state_dict()), src)
    with pytest.raises(ValueError, match="frequencies"):
        convert(src, dst, num_heads=2)
    assert not dst.exists()

"""Registers, and a class token behind all patches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dependence import dependence
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from tiny import randomise, relative, tiny_backbone, tiny_config, tiny_images, tiny_saim

from saim_mm.evaluation import FeatureExtractor
from saim_mm.evaluation.flops import saim_flops
from saim_mm.weights import CheckpointError, load_encoder, write_state_dict

SUFFIX = dict(cls_place="suffix")


def config(**options: Any) -> dict[str, Any]:
    return tiny_backbone(type="RegisterViT", **options)


def encoder(**options: Any) -> Any:
    model = MODELS.build(config(**options))
    randomise(model, 0)
    return model


def saim(**options: Any) -> Any:
    return tiny_saim(type="RegisterViT", **options)


@pytest.mark.parametrize("out_type", ["raw", "cls_token", "featmap", "avg_featmap"])
@pytest.mark.parametrize(
    "options",
    [dict(num_registers=4), SUFFIX, dict(num_registers=2, **SUFFIX)],
    ids=str,
)
def test_outputs_have_the_shapes_of_a_plain_vit(
    out_type: str, options: dict[str, Any]
) -> None:
    """At the built size and at another."""
    ours = encoder(out_type=out_type, **options)
    plain = MODELS.build(tiny_backbone(out_type=out_type))
    for size in ((8, 12), (16, 20)):
        images = torch.randn(2, 3, *size)
        assert ours(images)[0].shape == plain(images)[0].shape


def test_without_registers_it_is_a_plain_vit() -> None:
    ours = encoder(num_registers=0)
    plain = MODELS.build(tiny_backbone())
    plain.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 12)
    assert relative(ours(images)[0], plain(images)[0]) < 1e-6


@pytest.mark.parametrize("out_type", ["raw", "avg_featmap"])
def test_registers_alone_are_not_in_the_output(out_type: str) -> None:
    ours = encoder(num_registers=3, with_cls_token=False, out_type=out_type)
    expected = (2, 6, 16) if out_type == "raw" else (2, 16)
    assert ours(torch.randn(2, 3, 8, 12))[0].shape == expected


@torch.no_grad()
def test_zero_values_scale_the_attention_by_the_softmax_that_is_left() -> None:
    """With values of zero, R registers shrink what is read by Z / (Z + Z_R)."""
    layer = encoder(num_registers=3).layers[0]
    x = torch.randn(1, 10, 16)
    torch.nn.init.zeros_(layer.attn.qkv.bias)
    # The registers' directions carry no value.
    basis = torch.linalg.qr(layer.ln1(x)[0, 1:4].T).Q
    layer.attn.qkv.weight[32:] -= layer.attn.qkv.weight[32:] @ basis @ basis.T
    q, k, v = layer._project(layer.ln1(x), None)
    assert v[:, :, 1:4].abs().max() < 1e-5
    scores, others = (q @ k.transpose(2, 3) / 8**0.5).exp(), [0, *range(4, 10)]
    shares = scores[..., others] / scores[..., others].sum(-1, keepdim=True)
    left = scores[..., others].sum(-1, keepdim=True) / scores.sum(-1, keepdim=True)
    read = left * (shares @ v[:, :, others])
    x_read = x + layer.attn.proj(read.transpose(1, 2).flatten(2))
    expected = x_read + layer.ffn.layers(layer.ln2(x_read))
    assert relative(layer(x), expected) < 1e-6
    assert left.max() < 0.99


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_it_is_timms_with_register_tokens(no_embed_class: bool) -> None:
    """vit_*_reg4_*: copied weights, the same class token and patches."""
    timm = pytest.importorskip("timm.models.vision_transformer", reason="no timm")
    theirs = timm.VisionTransformer(
        img_size=(8, 12),
        patch_size=4,
        embed_dim=16,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        reg_tokens=4,
        no_embed_class=no_embed_class,
        num_classes=0,
    )
    randomise(theirs, 0)
    ours = encoder(num_registers=4, final_norm=True)
    state, own = theirs.state_dict(), ours.state_dict()
    names = {"reg_token": "registers", "norm.": "ln1.", "blocks.": "layers."}
    names |= {"patch_embed.proj.": "patch_embed.projection.", ".norm": ".ln"}
    names |= {"mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    if no_embed_class:
        zeros = torch.zeros(1, 5, 16)
        state["pos_embed"] = torch.cat([zeros, state["pos_embed"]], dim=1)
    renamed = {}
    for key, tensor in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = tensor
    assert renamed.keys() == own.keys()
    ours.load_state_dict(renamed, strict=True)
    images = torch.randn(2, 3, 8, 12)
    features = theirs.eval().forward_features(images)
    expected = torch.cat([features[:, :1], features[:, 5:]], dim=1)
    assert relative(ours(images)[0], expected) < 1e-6


@pytest.mark.parametrize("visible", ["all", "causal"])
@pytest.mark.parametrize("registers", [0, 2])
def test_the_last_token_sees_all_and_nobody_sees_it(
    visible: str, registers: int
) -> None:
    model = encoder(visible=visible, num_registers=registers, **SUFFIX)
    images = torch.randn(2, 3, 8, 12)
    order = torch.arange(6).expand(2, -1)
    seen = dependence(lambda x: model(x)[0], images, order, (4, 4))
    patches = torch.ones(6, 6, dtype=torch.bool)
    assert seen[:, 0].all()
    assert torch.equal(
        seen[:, 1:],
        (patches.tril() if visible == "causal" else patches).expand(2, 6, 6),
    )
    before = model(images)[0]
    torch.nn.init.normal_(model.suffix_token)
    after = model(images)[0]
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert relative(after[:, 0], before[:, 0]) > 1e-2


@pytest.mark.parametrize("registers", [1, 3])
def test_causal_features_are_those_of_raster_pretraining(registers: int) -> None:
    """Of every layer, beside the class token at the end."""
    options: dict[str, Any] = dict(visible="causal", num_registers=registers)
    model = saim(order="raster", out_indices=[0, 1, 2, 3], **options, **SUFFIX)
    images = tiny_images(model, 2)
    states = model.backbone(images, model.plan(images)).states
    for ours, theirs in zip(model.backbone(images), states, strict=True):
        assert relative(ours[:, 1:], theirs[:, registers:]) < 1e-6


def test_plan_counts_registers_and_leaves_out_the_last_token() -> None:
    front, last = (saim(num_registers=3, **options) for options in ({}, SUFFIX))
    images = tiny_images(front, 2)
    assert front.plan(images).extra_tokens == 4
    plan = last.plan(images)
    assert plan.extra_tokens == 3
    assert last.backbone(images, plan).states[-1].shape == (2, 9, 16)
    # The cost is that of a plain model with as many tokens in front.
    assert saim_flops(last) == saim_flops(saim(num_registers=2))


@pytest.mark.parametrize("options", [{}, SUFFIX], ids=["prefix", "suffix"])
def test_every_trainable_parameter_has_a_gradient(options: dict[str, Any]) -> None:
    """Data parallelism waits for ever for one without."""
    model = saim(num_registers=2, **options)
    model.loss(tiny_images(model, 2))["loss"].backward()
    names = dict(model.named_parameters())
    frozen = {name for name, p in names.items() if not p.requires_grad}
    assert {name for name, p in names.items() if p.grad is None} == frozen
    expected = {"backbone.pos_embed", "head.blur.kernel"} & names.keys()
    expected |= {"backbone.suffix_token"} if options else set()
    assert frozen == expected


@pytest.mark.parametrize(
    "reading", [None, dict(type="PrefixReading", prefix=2)], ids=["whole", "prefix"]
)
@pytest.mark.parametrize("options", [dict(num_registers=2), SUFFIX], ids=str)
def test_no_prediction_sees_its_patch(
    options: dict[str, Any], reading: dict[str, Any] | None
) -> None:
    if reading is None and options == SUFFIX:
        with pytest.raises(ValueError, match=r"num_registers>=1"):
            MODELS.build(tiny_config(type="RegisterViT", **options))
        return
    model = saim(reading=reading, **options)
    images = tiny_images(model, 20)
    plan = model.plan(images)
    rows = partial(model.predict_asked, plan=plan)
    seen = dependence(rows, images, plan.order, (4, 4))
    ranks = torch.arange(6)
    asked = ranks if plan.query_ranks is None else plan.query_ranks
    assert torch.equal(seen, (ranks < asked[:, None]).expand_as(seen))


def test_start_of_the_weights() -> None:
    torch.manual_seed(0)
    options = dict(embed_dims=256, num_registers=8)
    for place in ("prefix", "suffix"):
        model = MODELS.build(config(cls_place=place, **options))
        model.init_weights()
        extra = model.num_extra_tokens
        assert extra == 8 + (place == "prefix")
        assert not model.pos_embed[:, :extra].any() and model.pos_embed.any()
        cls = model.cls_token if place == "prefix" else model.suffix_token
        for tokens in (model.registers, cls):
            assert tokens.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    "options",
    [dict(num_registers=4), dict(num_registers=3, **SUFFIX), SUFFIX],
    ids=str,
)
def test_weights_load_completely_at_another_size(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Positions are fitted as a plain ViT's, and extra tokens kept."""
    source = encoder(**options)
    file = tmp_path / "encoder.pth"
    write_state_dict(file, source.state_dict())
    same = MODELS.build(config(**options))
    report = load_encoder(same, file)
    assert not report.as_initialised and not report.unused
    for key, tensor in source.state_dict().items():
        assert torch.equal(same.state_dict()[key], tensor), key

    other = MODELS.build(config(image_size=(16, 24), **options))
    load_encoder(other, file, grid=(2, 3))
    extra = source.num_extra_tokens
    assert torch.equal(other.pos_embed[:, :extra], source.pos_embed[:, :extra])
    plain = MODELS.build(tiny_backbone(with_cls_token=False, out_type="featmap"))
    plain.pos_embed.data = source.pos_embed[:, extra:]
    large = MODELS.build(
        tiny_backbone(image_size=(16, 24), with_cls_token=False, out_type="featmap")
    )
    large.load_state_dict(plain.state_dict())
    assert torch.equal(other.pos_embed[:, extra:], large.pos_embed)
    other.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(other.pos_embed[:, extra:], large.pos_embed)


@pytest.mark.parametrize(
    ("written", "read", "named"),
    [
        (config(num_registers=2), tiny_backbone(), "registers"),
        (tiny_backbone(), config(num_registers=2), "registers"),
        (config(num_registers=2), config(num_registers=3), "registers"),
        (config(**SUFFIX), tiny_backbone(), "cls_token is missing"),
        (tiny_backbone(), config(**SUFFIX), "suffix_token"),
    ],
)
def test_no_other_encoder_takes_its_weights(
    written: dict[str, Any], read: dict[str, Any], named: str, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.pth"
    write_state_dict(file, MODELS.build(written).state_dict())
    with pytest.raises(CheckpointError, match=named):
        load_encoder(MODELS.build(read), file)


@pytest.mark.parametrize("visible", ["all", "causal"])
def test_features_are_pooled_where_the_token_is(visible: str) -> None:
    model = encoder(visible=visible, num_registers=2, **SUFFIX)
    images = torch.randn(2, 3, 8, 12)
    expected = model(images)[0]
    for pool, vectors in (("cls", expected[:, 0]), ("avg", expected[:, 1:].mean(1))):
        extractor = FeatureExtractor(model, SelfSupDataPreprocessor(), pool=pool)
        labels = torch.zeros(2, dtype=torch.long)
        features = extractor.extract_tensors(images, labels).vectors
        assert relative(features, vectors) < 1e-6


def test_layers_of_its_tokens_and_frozen_stages() -> None:
    model = encoder(num_registers=2, frozen_stages=1, **SUFFIX)
    for name in ("registers", "suffix_token", "pos_embed"):
        assert model.get_layer_depth(f"x.{name}", "x.")[0] == 0
        assert not getattr(model, name).requires_grad
    assert model.get_layer_depth("layers.1.ln1.bias")[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_registers=-1), "num_registers=-1"),
        (dict(cls_place="middle"), "'prefix', 'suffix'"),
        (dict(with_cls_token=False, **SUFFIX), "with_cls_token=False"),
        (dict(with_cls_token=False, window_size=2), "windows"),
        (dict(visible="causal", out_type="cls_token"), "avg_featmap"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(config(**options))

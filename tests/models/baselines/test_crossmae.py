"""CrossMAE as a reading: its encoder against transformers' MAE."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dependence import dependence
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM, CrossMAENeck
from saim_mm.models.saim_vit import sincos_position_embedding


def their_encoder(model: SAIM) -> torch.nn.Module:
    """transformers' MAE encoder with our weights; it keeps half of 16 patches."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        mask_ratio=0.5,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ViTMAEModel(config).eval()
    theirs.load_state_dict(dict(_their_state(model)), strict=True)
    return theirs


def _their_state(model: SAIM) -> dict[str, Tensor]:
    backbone = model.backbone
    patches = "embeddings.patch_embeddings.projection"
    state = {
        "embeddings.cls_token": backbone.cls_token,
        "embeddings.position_embeddings": backbone.pos_embed,
        f"{patches}.weight": backbone.patch_embed.projection.weight,
        f"{patches}.bias": backbone.patch_embed.projection.bias,
        "layernorm.weight": model.neck.norm.weight,
        "layernorm.bias": model.neck.norm.bias,
    }
    for i, layer in enumerate(backbone.layers):
        here = f"encoder.layer.{i}"
        names = {
            "layernorm_before": layer.ln1,
            "layernorm_after": layer.ln2,
            "attention.output.dense": layer.attn.proj,
            "intermediate.dense": layer.ffn.layers[0][0],
            "output.dense": layer.ffn.layers[1],
        }
        for kind in ("weight", "bias"):
            for name, module in names.items():
                state[f"{here}.{name}.{kind}"] = getattr(module, kind)
            thirds = getattr(layer.attn.qkv, kind).chunk(3)
            for name, third in zip(("query", "key", "value"), thirds, strict=True):
                state[f"{here}.attention.attention.{name}.{kind}"] = third
    return state


def test_encoder_is_that_of_mae() -> None:
    """The order sorts the noise; what is read sees all that is read."""
    reading = dict(type="FixedReading", read=8, asks="after", content="all")
    model = tiny_saim(image_size=(16, 16), reading=reading)
    theirs = their_encoder(model)
    images, noise = tiny_images(model, 3), torch.rand(3, 16)
    plan = model.plan(images, order=noise.argsort(dim=1))
    with torch.no_grad():
        ours = model.neck.norm(model.backbone(images, plan).states[-1])
        expected = theirs(images, noise=noise).last_hidden_state
    assert ours.shape == expected.shape == (3, 9, 16)
    assert relative(ours, expected) < 1e-5


READ = dict(type="FixedReading", read=6, asks="after", content="all")


def crossmae(**options: Any) -> SAIM:
    neck = dict(_delete_=True, type="CrossMAENeck", depth=3, width=24, decoder_heads=4)
    defaults = dict(
        image_size=(16, 16), reading=READ, projector="linear", smoothing=None
    )
    return tiny_saim(**{**defaults, **options}, neck=neck)


def test_decoder_written_out() -> None:
    model = crossmae()
    images = tiny_images(model, 2)
    plan = model.plan(images)
    content, neck = model.backbone(images, plan), model.neck
    x = neck.mask_token + sincos_position_embedding((4, 4), 24)[plan.asked]
    maps = [content.embeddings, *content.states]
    for layer, norm, weights in zip(
        neck.layers, neck.memory_norms, neck.mix.weight, strict=True
    ):
        memory = norm(sum(w * h for w, h in zip(weights, maps, strict=True)))
        q, k, v = (
            part.unflatten(-1, (4, 6)).transpose(1, 2)
            for part in (layer.q(layer.ln1(x)), *layer.kv(memory).chunk(2, -1))
        )
        scores = (q @ k.transpose(2, 3) / 6**0.5).softmax(-1)
        x = x + layer.proj((scores @ v).transpose(1, 2).flatten(2))
        x = x + layer.ffn(layer.ln2(x))
    ours = neck(content, plan, model.backbone.layers)
    assert ours.shape == (2, 10, 24)
    assert relative(ours, neck.norm(x)) < 1e-5


def test_any_part_is_predicted_as_in_the_whole() -> None:
    model = crossmae()
    images = tiny_images(model, 2)
    family, order = model.order_sampler, torch.rand(2, 16).argsort(1)
    whole = model.predict_asked(images, family.plan_of(order, range(6, 16), 6, 6))
    ranks = torch.tensor([7, 8, 14])
    part = model.predict_asked(images, family.plan_of(order, ranks, 6, 6, lowest=6))
    assert relative(part, whole[:, ranks - 6]) < 1e-6


@pytest.mark.parametrize(
    "reading",
    [
        READ,
        dict(READ, asked=4),
        dict(type="CutReading", asked=3),
        dict(type="PrefixReading", prefix=5),
        None,
    ],
    ids=str,
)
def test_no_prediction_sees_its_patch(reading: dict[str, Any] | None) -> None:
    model = crossmae(reading=reading)
    images = tiny_images(model, 4)
    plan = model.plan(images)
    seen = dependence(
        lambda x: model.predict_asked(x, plan), images, plan.order, (4, 4)
    )
    ranks = torch.arange(16)
    asked = ranks if plan.query_ranks is None else plan.query_ranks
    expected = (ranks < asked[:, None]) & (ranks < plan.num_read)
    assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.parametrize("options", [dict(depth=0), dict(width=20, decoder_heads=3)])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must divide width"):
        CrossMAENeck(**options)

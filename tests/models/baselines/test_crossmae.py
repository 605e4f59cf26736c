"""CrossMAE as a reading: its encoder against transformers' MAE."""

from __future__ import annotations

import pytest
import torch
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM


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

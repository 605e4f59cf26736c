"""Certificates of what AIM's and NEPA's authors released, as encoders of ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..models import RotaryViT, SAIMViT
from ..weights.arch import Arch
from ..weights.files import CheckpointError
from ..weights.keymap import Conversion, count_layers
from ..weights.position import infer_grid
from ..weights.rivals import NEPAConfig
from .certificate import Certificate, compare, load_all, seeded_images
from .rival_models import aim_features, nepa_features


@torch.no_grad()
def certify_aim(
    conversion: Conversion, aim: Mapping[str, Tensor], num_heads: int
) -> Certificate:
    """Compares AIM's trunk with :class:`SAIMViT`."""
    ours = conversion.state_dict
    grid = infer_grid(ours["pos_embed"][0])
    arch = _arch(ours, grid, num_heads, len(ours["layers.0.ffn.layers.0.0.weight"]))
    norm = dict(norm_cfg=dict(type="LN", eps=1e-6))
    options = {**arch.backbone, "with_cls_token": False, "patch_cfg": norm}
    model = load_all(SAIMViT(out_type="raw", **options), ours)
    images = seeded_images(arch)
    pairs = {"features": (aim_features(aim, images, num_heads), model(images)[-1])}
    return compare(conversion, pairs, ("AIM's release", "SAIMViT"), arch)


@torch.no_grad()
def certify_nepa(
    conversion: Conversion, nepa: Mapping[str, Tensor], config: NEPAConfig
) -> Certificate:
    """Compares NEPA's model with :class:`RotaryViT`, with its mask and without."""
    ours = conversion.state_dict
    arch = _arch(ours, config.grid, config.num_heads, _feedforward(ours, config.gated))
    images = seeded_images(arch)
    pairs = {}
    for visible in ("causal", "all"):
        model = RotaryViT(
            out_type="raw",
            visible=visible,
            rope_theta=config.theta,
            qk_norm=config.qk_norm,
            layer_scale_init_value=1e-5,
            norm_cfg=dict(type="LN", eps=config.eps),
            layer_cfgs=dict(ffn_type="swiglu_fused" if config.gated else "origin"),
            **arch.backbone,
        )
        theirs = nepa_features(nepa, images, config, visible == "causal")
        features = load_all(model, ours)(images)[-1]
        pairs[f"features, visible={visible!r}"] = (theirs, features)
    return compare(conversion, pairs, ("NEPA's release", "RotaryViT"), arch)


def _feedforward(ours: Mapping[str, Tensor], gated: bool) -> int:
    """``feedforward_channels``, of which SwiGLU takes two thirds, by steps of 8."""
    if not gated:
        return len(ours["layers.0.ffn.layers.0.0.weight"])
    hidden = ours["layers.0.ffn.w3.weight"].shape[1]
    if hidden % 8:
        raise CheckpointError(
            f"A gated network of {hidden} channels: mmpretrain has multiples of 8 only."
        )
    return hidden * 3 // 2


def _arch(
    ours: Mapping[str, Tensor], grid: tuple[int, int], num_heads: int, hidden: int
) -> Arch:
    width, channels, *patch = ours["patch_embed.projection.weight"].shape
    return Arch(
        embed_dims=width,
        num_layers=count_layers(ours, "layers."),
        num_heads=num_heads,
        feedforward_channels=hidden,
        patch_size=(patch[0], patch[1]),
        in_channels=channels,
        grid=grid,
        final_norm=True,
    )

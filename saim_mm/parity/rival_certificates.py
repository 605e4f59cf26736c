"""Certificates of what AIM's and NEPA's authors released, as encoders of ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..models import RotaryViT, SAIMViT
from ..weights.arch import infer_arch
from ..weights.keymap import Conversion
from ..weights.rivals import NEPAConfig
from .certificate import Certificate, compare, load_all, seeded_images
from .rival_models import aim_features, nepa_features


@torch.no_grad()
def certify_aim(
    conversion: Conversion, aim: Mapping[str, Tensor], num_heads: int | None = None
) -> Certificate:
    """Compares AIM's trunk with :class:`SAIMViT`."""
    ours = conversion.state_dict
    arch = infer_arch(ours, num_heads=num_heads)
    norm = dict(norm_cfg=dict(type="LN", eps=1e-6))
    model = SAIMViT(out_type="raw", patch_cfg=norm, **arch.backbone)
    load_all(model, ours)
    images = seeded_images(arch)
    pairs = {"features": (aim_features(aim, images, arch.num_heads), model(images)[-1])}
    return compare(conversion, pairs, ("AIM's release", "SAIMViT"), arch)


@torch.no_grad()
def certify_nepa(
    conversion: Conversion, nepa: Mapping[str, Tensor], config: NEPAConfig
) -> Certificate:
    """Compares NEPA's model with :class:`RotaryViT`, with its mask and without."""
    ours = conversion.state_dict
    arch = infer_arch(ours, num_heads=config.num_heads)
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

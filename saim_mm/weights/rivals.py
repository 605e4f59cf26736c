"""What AIM, NEPA and DINO released -> bare encoders, as pure functions.

Every key is accounted for, as in :mod:`conversions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import keymap
from .conversions import timm_rows
from .files import CheckpointError
from .keymap import Conversion, count_layers, to_ours
from .layouts import AIM, nepa_table, rows_of
from .position import sincos_position_embedding, with_note

#: Sides of the images, in pixels, that every AIM was trained on.
_AIM_SIDE = 224


def dino_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """DINO's teacher, or its backbone alone, which is a ViT of timm; no head is kept.

    Args:
        state: What the authors' file holds, under ``teacher`` if it has all.
    """
    state = {key.removeprefix("backbone."): t for key, t in state.items()}
    rows = timm_rows(count_layers(state, "blocks."), "norm.weight" in state)
    return to_ours(rows, state, keymap.TIMM, {"head": r"head\."})


def aim_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """AIM's backbone, with or without the head of its probe, which is dropped.

    Its encoder is a ViT without class token, with a norm after the patch projection.
    The linear layers of its blocks have no bias; ours have, so these are zero here, and
    are trained where training goes on. Its positions are no weights; ours are those of
    images of 224 pixels, as of every release.

    Args:
        state: AIM's state dict, of PyTorch.

    Raises:
        CheckpointError: If a key is missing or unexpected.
    """
    rows = rows_of(AIM, count_layers(state, "trunk.blocks."))
    conversion = to_ours(rows, state, keymap.AIM, {"probe": r"head\."})
    ours = dict(conversion.state_dict)
    width, _, *patch = ours["patch_embed.projection.weight"].shape
    grid = (_AIM_SIDE // patch[0], _AIM_SIDE // patch[1])
    ours["pos_embed"] = sincos_position_embedding(grid, width)[None]
    for key in [key for key in ours if key.endswith(".weight")]:
        bias = key.removesuffix("weight") + "bias"
        if bias not in ours:
            ours[bias] = ours[key].new_zeros(len(ours[key]))
    return replace(conversion, state_dict=with_note(ours, grid))


@dataclass(frozen=True)
class NEPAConfig:
    """What config.json says of a NEPA, beyond what the weights do.

    Attributes:
        num_heads: Number of attention heads.
        image_size: Pixels of a side.
        patch_size: Pixels of a patch's side.
        eps: Of all layer norms.
        theta: Base of the rotary frequencies.
        qk_norm: ``off``, ``plain`` or ``affine``, as for ``RotaryViT``.
        gated: Whether the feed-forward network is gated (SwiGLU).
    """

    num_heads: int
    image_size: int
    patch_size: int
    eps: float
    theta: float
    qk_norm: Literal["off", "plain", "affine"]
    gated: bool

    @classmethod
    def beside(cls, file: Path) -> NEPAConfig:
        """Reads the config.json beside a file of weights.

        Raises:
            FileNotFoundError: If there is none.
            CheckpointError: If it is none of a NEPA that ours can be.
        """
        path = file.with_name("config.json")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: NEPA's config.json must lie beside its weights."
            )
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> NEPAConfig:
        """Reads the authors' config.json; what it may leave out has their default.

        Raises:
            CheckpointError: If the model is none, or has parts that ours lacks.
        """
        gated = bool(config.get("use_gated_mlp", False))
        activation = "silu" if gated else "gelu"
        wrong = [
            f"{name}={config.get(name, default)!r}, not {fitting!r}"
            for name, default, fitting in (
                ("model_type", None, "vit_nepa"),
                ("hidden_act", "gelu", activation),
                ("qkv_bias", True, True),
                ("qk_norm_bias", False, False),
            )
            if config.get(name, default) != fitting
        ]
        if wrong:
            raise CheckpointError(
                f"config.json has {'; '.join(wrong)}: no NEPA that RotaryViT can be."
            )
        norm: Literal["plain", "affine"]
        norm = "affine" if config.get("qk_norm_affine", False) else "plain"
        return cls(
            num_heads=_positive(config, "num_attention_heads", 12),
            image_size=_positive(config, "image_size", 224),
            patch_size=_positive(config, "patch_size", 16),
            eps=float(config.get("layer_norm_eps", 1e-12)),
            theta=float(config.get("rope_theta", 100.0)),
            qk_norm=norm if config.get("qk_norm", False) else "off",
            gated=gated,
        )


def _positive(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json has {name}={value!r}, no positive number.")
    return value


def nepa_to_encoder(state: Mapping[str, Tensor], config: NEPAConfig) -> Conversion:
    """NEPA's encoder -> ours, a ``RotaryViT``; mask token and classifier are dropped.

    It may be of pretraining, of a classifier or a bare model.

    Raises:
        CheckpointError: Also if the config is another's.
    """
    state = {key.removeprefix("vit_nepa."): tensor for key, tensor in state.items()}
    table = nepa_table(config.gated, config.qk_norm == "affine")
    rows = rows_of(table, count_layers(state, "encoder.layer."))
    allowed = {"mask token": "embeddings.mask_token$"}
    allowed["classifier"] = r"fc_norm\.|classifier\."
    conversion = to_ours(rows, state, keymap.NEPA, allowed)
    ours = dict(conversion.state_dict)
    width, _, *patch = ours["patch_embed.projection.weight"].shape
    if patch != 2 * [config.patch_size] or width % (4 * config.num_heads):
        raise CheckpointError(
            f"config.json says {config} and the weights are {width} wide, of patches "
            f"of {patch} pixels; give the config.json that lay beside them."
        )
    side = config.image_size // config.patch_size
    ours["pos_embed"] = torch.zeros(1, 1 + side * side, width)
    head_dims = width // config.num_heads
    steps = torch.arange(head_dims // 4, dtype=torch.float32) * 4 / head_dims
    ours["frequencies"] = config.theta**-steps
    if config.qk_norm != "off":
        ours["qk_norm"] = torch.empty(0)
    return replace(conversion, state_dict=with_note(ours, (side, side)))

"""AIM's and NEPA's encoders as functions of their state dicts, from descriptions.

Slow and plain, with separate heads and rotations of complex numbers: the other side of
the certificates of what their authors released.

Symbols: B images, N patches, D channels, T tokens.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.keymap import count_layers
from ..weights.rivals import NEPAConfig
from .release_model import State, attend, heads, linear, mask_of, mlp, norm, project


def aim_features(state: State, images: Tensor, num_heads: int) -> Tensor:
    """AIM's normed patches (B, N, D), each of which sees all.

    Of normalised images (B, C, H, W).
    """
    patches = project(state, "preprocessor.patchifier.proj", images)
    rows, columns = patches.shape[2:]
    x = norm(state, "preprocessor.patchifier.norm", patches.flatten(2).mT)
    places = itertools.product(range(rows), range(columns))
    x = x + torch.stack([_sincos(*place, x.shape[-1]) for place in places])
    for n in range(count_layers(state, "trunk.blocks.")):
        name = f"trunk.blocks.{n}."
        normed = norm(state, f"{name}norm_1", x)
        joint = linear(state, f"{name}attn.qkv", normed).chunk(3, dim=-1)
        q, k, v = (heads(part, num_heads) for part in joint)
        x = x + linear(state, f"{name}attn.proj", attend(q, k, v))
        x = x + mlp(state, f"{name}mlp", norm(state, f"{name}norm_2", x))
    return norm(state, "trunk.post_trunk_norm", x)


def nepa_features(
    state: State, images: Tensor, config: NEPAConfig, causal: bool
) -> Tensor:
    """NEPA's normed tokens (B, 1 + N, D), the class token first, by any of its models.

    Of normalised images (B, C, H, W). With ``causal`` a token sees only those up to
    itself, as in pretraining.
    """
    state = {key.removeprefix("vit_nepa."): tensor for key, tensor in state.items()}
    patches = project(state, "embeddings.patch_embeddings.projection", images)
    cls = state["embeddings.cls_token"].expand(len(images), -1, -1)
    x = torch.cat([cls, patches.flatten(2).mT], dim=1)
    width, grid = x.shape[-1] // config.num_heads, tuple(patches.shape[2:])
    turns = _turns(grid, width, config.theta)
    for n in range(count_layers(state, "encoder.layer.")):
        name = f"encoder.layer.{n}."
        x = x + _nepa_attention(state, name, x, config, turns, causal)
        normed = norm(state, f"{name}layernorm_after", x, config.eps)
        hidden = linear(state, f"{name}intermediate.up_proj", normed)
        if config.gated:
            gate = linear(state, f"{name}intermediate.gate_proj", normed)
            hidden = gate * gate.sigmoid() * hidden
        else:
            hidden = F.gelu(hidden)
        out = linear(state, f"{name}output.dense", hidden)
        x = x + state[f"{name}output.layer_scale.lambda1"] * out
    return norm(state, "layernorm", x, config.eps)


def _nepa_attention(
    state: State, name: str, x: Tensor, config: NEPAConfig, turns: Tensor, causal: bool
) -> Tensor:
    normed = norm(state, f"{name}layernorm_before", x, config.eps)
    inner = f"{name}attention.attention."
    q, k, v = (
        heads(linear(state, inner + part, normed), config.num_heads)
        for part in ("query", "key", "value")
    )
    if config.qk_norm != "off":
        q, k = (
            norm(state, f"{inner}{part}_norm", each, config.eps)
            for part, each in (("q", q), ("k", k))
        )
    sees = torch.ones(1, x.shape[1], x.shape[1], dtype=torch.bool)
    mask = mask_of(sees.tril() if causal else sees)
    out = attend(_turned(q, turns), _turned(k, turns), v, mask)
    out = linear(state, f"{name}attention.output.dense", out)
    return state[f"{name}layer_scale.lambda1"] * out


def _turns(grid: tuple[int, ...], head_dims: int, theta: float) -> Tensor:
    """By what each token's pairs of channels are multiplied (1 + N, D/2H)."""
    rows = [[1 + 0j] * (head_dims // 2)]
    omega = [theta ** (-4 * i / head_dims) for i in range(head_dims // 4)]
    for row, column in itertools.product(range(grid[0]), range(grid[1])):
        places = (2 * row + 1) / grid[0] - 1, (2 * column + 1) / grid[1] - 1
        angles = [2j * math.pi * place * o for place in places for o in omega]
        rows.append([cmath.exp(angle) for angle in angles])
    return torch.tensor(rows, dtype=torch.complex64)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Channel i and i + D/2H are a complex number."""
    pairs = torch.complex(*(half.contiguous() for half in x.chunk(2, dim=-1))) * turns
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def _sincos(row: int, column: int, width: int) -> Tensor:
    """A patch's position: sine and cosine of its column, then of its row."""
    omega = [10000 ** (-4 * k / width) for k in range(width // 4)]
    waves: tuple[Callable[[float], float], ...] = (math.sin, math.cos)
    return torch.tensor(
        [wave(place * o) for place in (column, row) for wave in waves for o in omega]
    )

"""Made-up weights in the layouts that AIM, NEPA and DINO released."""

from __future__ import annotations

from typing import Any

import torch

from saim_mm.weights import StateDict

WIDTH, DEPTH = 16, 2
#: config.json of a NEPA in the small; 3 x 3 patches.
NEPA_CONFIG: dict[str, Any] = dict(
    model_type="vit_nepa",
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=12,
    patch_size=4,
    hidden_act="gelu",
    use_gated_mlp=False,
    layer_norm_eps=1e-12,
    qkv_bias=True,
    qk_norm=True,
    qk_norm_affine=False,
    qk_norm_bias=False,
    rope_theta=100.0,
)


class _Draws(dict):
    """A state dict that draws what it is told to have."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, around: float = 0.0) -> None:
        noise = torch.randn(shape, generator=self.generator)
        self[name] = around + 0.3 * noise

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> None:
        self.draw(f"{name}.weight", rows, columns)
        if bias:
            self.draw(f"{name}.bias", rows)

    def norm(self, name: str) -> None:
        self.draw(f"{name}.weight", WIDTH, around=1)
        self.draw(f"{name}.bias", WIDTH)

    def projection(self, name: str, patch: int) -> None:
        self.draw(f"{name}.weight", WIDTH, 3, patch, patch)
        self.draw(f"{name}.bias", WIDTH)


def aim_state(probe: bool = False) -> StateDict:
    """AIM's, of 4 x 4 patches of 56 pixels, with its probe or without."""
    state = _Draws()
    state.projection("preprocessor.patchifier.proj", 56)
    # Of images of 224 pixels: keeps the scale.
    state["preprocessor.patchifier.proj.weight"] /= 56
    state.norm("preprocessor.patchifier.norm")
    for n in range(DEPTH):
        name = f"trunk.blocks.{n}"
        state.linear(f"{name}.attn.qkv", 3 * WIDTH, WIDTH, bias=False)
        state.linear(f"{name}.attn.proj", WIDTH, WIDTH, bias=False)
        state.norm(f"{name}.norm_1")
        state.linear(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH, bias=False)
        state.linear(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH, bias=False)
        state.norm(f"{name}.norm_2")
    state.norm("trunk.post_trunk_norm")
    if probe:
        for name in ("k", "v"):
            state.linear(f"head.{name}", WIDTH, WIDTH, bias=False)
        state.draw("head.cls_token", 1, 1, WIDTH)
        state.linear("head.linear", 5, WIDTH, bias=False)
        state.draw("head.bn.running_mean", WIDTH)
        state.draw("head.bn.running_var", WIDTH, around=1)
        state["head.bn.num_batches_tracked"] = torch.tensor(3)
    return dict(state)


def nepa_state(config: dict[str, Any] = NEPA_CONFIG, prefix: str = "") -> StateDict:
    """NEPA's."""
    state = _Draws()
    state.draw(f"{prefix}embeddings.cls_token", 1, 1, WIDTH)
    state.projection(f"{prefix}embeddings.patch_embeddings.projection", 4)
    hidden = config["intermediate_size"]
    for n in range(DEPTH):
        name = f"{prefix}encoder.layer.{n}"
        inner = f"{name}.attention.attention"
        for part in ("query", "key", "value"):
            state.linear(f"{inner}.{part}", WIDTH, WIDTH)
        if config["qk_norm"] and config["qk_norm_affine"]:
            for part in ("q_norm", "k_norm"):
                state.draw(f"{inner}.{part}.weight", WIDTH // 2, around=1)
        state.linear(f"{name}.attention.output.dense", WIDTH, WIDTH)
        state.draw(f"{name}.layer_scale.lambda1", WIDTH)
        if config["use_gated_mlp"]:
            state.linear(f"{name}.intermediate.gate_proj", hidden, WIDTH)
        state.linear(f"{name}.intermediate.up_proj", hidden, WIDTH)
        state.linear(f"{name}.output.dense", WIDTH, hidden)
        state.draw(f"{name}.output.layer_scale.lambda1", WIDTH)
        state.norm(f"{name}.layernorm_before")
        state.norm(f"{name}.layernorm_after")
    state.norm(f"{prefix}layernorm")
    return dict(state)


def dino_state(prefix: str = "", head: bool = False) -> StateDict:
    """DINO's backbone of 3 x 3 patches, with its head or without."""
    state = _Draws()
    state.draw(f"{prefix}cls_token", 1, 1, WIDTH)
    state.draw(f"{prefix}pos_embed", 1, 10, WIDTH)
    state.projection(f"{prefix}patch_embed.proj", 4)
    for n in range(DEPTH):
        name = f"{prefix}blocks.{n}"
        state.norm(f"{name}.norm1")
        state.linear(f"{name}.attn.qkv", 3 * WIDTH, WIDTH)
        state.linear(f"{name}.attn.proj", WIDTH, WIDTH)
        state.norm(f"{name}.norm2")
        state.linear(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH)
        state.linear(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH)
    state.norm(f"{prefix}norm")
    if head:
        outer = prefix.removesuffix("backbone.")
        state.linear(f"{outer}head.mlp.0", 8, WIDTH)
        state.draw(f"{outer}head.last_layer.weight_g", 7, 1)
        state.draw(f"{outer}head.last_layer.weight_v", 7, 8)
    return dict(state)

"""A seeded state dict in the exact layout of the authors' release."""

from __future__ import annotations

import torch
from torch import Tensor

from saim_mm.weights import StateDict

# The release's layout, spelt out independently of the maps.
BLOCK = ("norm1", "attn.q", "attn.k", "attn.v", "attn.proj", "norm2")


def release_state(
    width: int = 16,
    depth: int = 4,
    decoder_depth: int = 2,
    patch: int = 4,
    side: int = 3,
    head: str = "mlp",
    hidden: int = 4,
) -> StateDict:
    """A pretraining state dict of the release with seeded values."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    state: StateDict = {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = random(rows, columns)
        state[f"{name}.bias"] = random(rows)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + random(width)
        state[f"{name}.bias"] = random(width)

    state["cls_token"] = random(1, 1, width)
    state["pos_embed"] = random(1, 1 + side * side, width)
    state["patch_embed.proj.weight"] = random(width, 3, patch, patch)
    state["patch_embed.proj.bias"] = random(width)
    names = [f"blocks.{n}" for n in range(depth)]
    names += [f"query_blocks.{n}" for n in range(decoder_depth)]
    for name in names:
        for part in BLOCK:
            if part.startswith("attn"):
                linear(f"{name}.{part}", width, width)
            else:
                norm(f"{name}.{part}")
        linear(f"{name}.mlp.fc1", hidden * width, width)
        linear(f"{name}.mlp.fc2", width, hidden * width)
    norm("norm")
    pixels = patch * patch * 3
    if head == "mlp":
        linear("prediction_head.fc1", hidden * width, width)
        linear("prediction_head.fc2", pixels, hidden * width)
    else:
        linear("prediction_head", pixels, width)
    # Built in another way than ours, so that the last bits differ.
    axis = torch.arange(9.0) - 4
    kernel = torch.exp(-(axis[:, None] ** 2 + axis**2) / 2)
    state["gaussian_blur.weight"] = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    return state


def finetuned_state(pooled: bool, classes: int = 5) -> StateDict:
    """A fine-tuned state dict of the release."""
    state = {
        key: tensor
        for key, tensor in release_state().items()
        if not key.startswith(("query_blocks.", "prediction_head.", "gaussian_blur."))
    }
    state["head.weight"] = torch.linspace(-1, 1, classes * 16).view(classes, 16)
    state["head.bias"] = torch.arange(float(classes))
    if pooled:
        for kind in ("weight", "bias"):
            state[f"fc_norm.{kind}"] = state.pop(f"norm.{kind}")
    return state


def assert_same(a: StateDict, b: StateDict) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def without(state: StateDict, key: str) -> StateDict:
    return {name: tensor for name, tensor in state.items() if name != key}

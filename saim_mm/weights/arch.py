"""The sizes of an encoder, read off its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .files import CheckpointError
from .keymap import count_layers
from .position import has_class_row, infer_grid, noted_grid

#: Width -> heads of the standard ViTs that do not have 64 channels a head.
_HEADS_OF_WIDTH = {1280: 16}  # ViT-H


@dataclass(frozen=True)
class Arch:
    """The sizes of an encoder, as its tensors tell them."""

    embed_dims: int
    num_layers: int
    num_heads: int
    feedforward_channels: int
    patch_size: tuple[int, int]
    in_channels: int
    grid: tuple[int, int]
    final_norm: bool
    with_cls_token: bool = True

    @property
    def img_size(self) -> tuple[int, int]:
        """Rows and columns of the images, in pixels."""
        rows, columns = self.grid
        return rows * self.patch_size[0], columns * self.patch_size[1]

    @property
    def backbone(self) -> dict[str, Any]:
        """Options of mmpretrain's ``VisionTransformer``."""
        names = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
        tokens = {} if self.with_cls_token else {"with_cls_token": False}
        return dict(
            **tokens,
            arch={name: getattr(self, name) for name in names},
            img_size=self.img_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            final_norm=self.final_norm,
        )


def infer_arch(
    state: Mapping[str, Tensor], prefix: str = "", num_heads: int | None = None
) -> Arch:
    """Reads the sizes off an encoder in our names.

    Args:
        state: State dict of the encoder.
        prefix: What precedes its keys.
        num_heads: Number of heads, which no shape tells; by default width / 64, as in
            ViT-S, -B and -L, 16 for the width of ViT-H, or width / 128 with a norm
            after the patch projection, as in AIM.

    Raises:
        CheckpointError: If the number of heads or the grid cannot be told.
    """
    width, channels, *patch = state[f"{prefix}patch_embed.projection.weight"].shape
    per_head = 128 if f"{prefix}patch_embed.norm.weight" in state else 64
    heads = num_heads or _HEADS_OF_WIDTH.get(width, width // per_head)
    if not heads or width % heads or (num_heads is None and width % per_head):
        raise CheckpointError(
            f"num_heads={num_heads} with width {width}: give the number of heads the "
            "model was trained with (--num-heads), a divisor of the width; only with "
            "64 channels a head is it known."
        )
    grid = noted_grid(getattr(state, "_metadata", None), prefix)
    with_cls_token = has_class_row(state, prefix, math.prod(grid or ()))
    extra = int(with_cls_token)
    if registers := registers_in(state, prefix):  # of a RegisterViT
        with_cls_token = "cls_token" in registers or "suffix_token" in registers
        extra = registers.get("cls_token", 0) + registers.get("registers", 0)
    positions = state[f"{prefix}pos_embed"][0, extra:]
    return Arch(
        embed_dims=width,
        num_layers=count_layers(state, f"{prefix}layers."),
        num_heads=heads,
        feedforward_channels=_feedforward(state, prefix),
        patch_size=(patch[0], patch[1]),
        in_channels=channels,
        grid=infer_grid(positions, noted=grid),
        final_norm=f"{prefix}ln1.weight" in state,
        with_cls_token=with_cls_token,
    )


def registers_in(state: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    """The tokens of a ``RegisterViT``, how many of each name; empty if it is none."""
    names = ("cls_token", "registers", "suffix_token")
    keys = {name: state.get(prefix + name) for name in names}
    found = {name: t.shape[1] for name, t in keys.items() if t is not None}
    return {} if set(found) <= {"cls_token"} else found


def _feedforward(state: Mapping[str, Tensor], prefix: str) -> int:
    """``feedforward_channels``, of which SwiGLU takes two thirds, by steps of 8."""
    gated = state.get(f"{prefix}layers.0.ffn.w3.weight")
    if gated is None:
        return len(state[f"{prefix}layers.0.ffn.layers.0.0.weight"])
    hidden = gated.shape[1]
    if hidden % 8:
        raise CheckpointError(
            f"A gated network of {hidden} channels: mmpretrain has multiples of 8 only."
        )
    return hidden * 3 // 2

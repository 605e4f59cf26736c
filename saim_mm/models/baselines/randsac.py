"""RandSAC (Hua et al. 2022): segments in groups, queries that see each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor

from ...registry import register
from ..layers import AttentionBlock
from ..order import check_tiles
from ..plan import Mask, Plan
from ..saim_vit import Content
from .layer_mix import LayerMixNeck


@register("model")
@dataclass(frozen=True)
class HierarchicalSegments:
    """Segments group by group: groups at random, and segments at random within each.

    Args:
        group_size: Rows and columns of a group, in segments.

    Raises:
        ValueError: When used, if the groups do not tile the grid of segments.
    """

    group_size: tuple[int, int]

    def numbers(self, grid: tuple[int, int]) -> int:
        """One for each segment, and one for each group."""
        rows, columns = check_tiles("group_size", self.group_size, grid, "segment")
        return grid[0] * grid[1] + grid[0] // rows * (grid[1] // columns)

    def sort(self, r: Tensor, grid: tuple[int, int]) -> Tensor:
        """Random numbers (B, numbers) -> sequence of segments (B, segments)."""
        groups, count = self.groups(grid, r.device), grid[0] * grid[1]
        within = r[:, :count].argsort(dim=1, stable=True).argsort(dim=1)
        group = r[:, count:].argsort(dim=1, stable=True).argsort(dim=1)
        return (group[:, groups] * count + within).argsort(dim=1)

    def groups(
        self, grid: tuple[int, int], device: torch.device | None = None
    ) -> Tensor:
        """The group of each segment, (segments,); made where it is needed."""
        rows, columns = self.group_size
        row = torch.arange(grid[0], device=device)[:, None] // rows
        column = torch.arange(grid[1], device=device) // columns
        return (row * (grid[1] // columns) + column).flatten()


@register("model")
class RandSACNeck(LayerMixNeck):
    """SAIM's decoder with self-attention of the queries in front of each layer.

    A query sees those of its own segment and of earlier ones, then the content of
    earlier segments, in a learnt mix of all layers. All patches must be asked for, for
    a query's neighbours change what it predicts.

    Args:
        depth: Number of query layers, at least 1.
        embed_dims: Number of channels D.
        num_heads: Number of attention heads.
        **kwargs: As for ``LayerMixNeck``.

    Raises:
        ValueError: As ``LayerMixNeck``, or if the layers are not its own.
    """

    joint = True

    def __init__(
        self,
        depth: int = 12,
        embed_dims: int = 768,
        num_heads: int = 12,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("tied_decoder") or kwargs.get("coupled"):
            raise ValueError(
                "RandSACNeck needs query layers of its own; set tied_decoder=False."
            )
        super().__init__(depth, embed_dims=embed_dims, num_heads=num_heads, **kwargs)
        self.self_layers = ModuleList(
            SelfAttention(TransformerEncoderLayer(embed_dims, num_heads, 1))
            for _ in range(depth)
        )

    def forward(
        self, content: Content, plan: Plan, encoder_layers: ModuleList
    ) -> Tensor:
        """As :meth:`SAIMNeck.forward`."""
        queries = content.positions
        memories = self._memories(content, plan.memory_tokens)
        layers = zip(self.self_layers, self.layers, memories, strict=True)
        for self_layer, layer, memory in layers:
            queries = self_layer(queries, None, plan.query_mask)
            queries = layer(
                queries, memory, plan.memory_mask, None, None, content.turns
            )
        return self.norm(queries)


class SelfAttention(AttentionBlock):
    """The attention of a layer, without its feed-forward network.

    Args:
        layer: The layer whose attention is taken over.
    """

    def __init__(self, layer: TransformerEncoderLayer) -> None:
        super().__init__(layer)
        del self.ln2, self.ffn

    def forward(  # type: ignore[override]  # nothing but what queries need
        self, x: Tensor, memory: None, mask: Mask
    ) -> Tensor:
        """(B, K, D) -> (B, K, D)."""
        q, k, v = self._project(self.ln1(x), None)
        return x + self.attn.out_drop(self.attend(q, k, v, mask))

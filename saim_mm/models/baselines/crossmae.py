"""CrossMAE (Fu et al. 2024): a narrow decoder of cross-attention alone.

The scheme itself is ``FixedReading(read=49, asks="after", content="all")``.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from ...registry import register
from ...weights.position import sincos_position_embedding
from ..layers import attend, init_like_official
from ..plan import Mask, Plan, sort_tokens
from ..saim_vit import Content
from .layer_mix import LayerMix


@register("model")
class CrossMAENeck(BaseModule):
    """A query starts as mask token and position, and reads mixes of encoder layers.

    Queries do not see each other, so any part of them may be asked for. The sizes that
    follow from the backbone need not be given.

    Args:
        embed_dims: Number of channels D of the encoder.
        patch_resolution: Rows and columns of the patch grid.
        num_encoder_layers: M, layers of the encoder.
        depth: Number of query layers.
        width: Number of channels of the decoder.
        decoder_heads: Number of attention heads of the decoder.
        init_cfg: Initialisation config; by default as for :class:`SAIMNeck`.

    Raises:
        ValueError: If there is no layer, the heads do not divide the width, or it is no
            multiple of 4.
    """

    memory, tied_decoder, joint = "mix", False, False
    positions: Tensor  # (1, N, width)

    def __init__(
        self,
        embed_dims: int = 768,
        patch_resolution: tuple[int, int] = (14, 14),
        num_encoder_layers: int = 12,
        depth: int = 12,
        width: int = 512,
        decoder_heads: int = 16,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if depth < 1 or width % decoder_heads:
            raise ValueError(
                f"CrossMAENeck depth={depth} must be at least 1, and decoder_heads="
                f"{decoder_heads} must divide width={width}."
            )
        self.depth, self.out_dims = depth, width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = sincos_position_embedding(patch_resolution, width)[None]
        self.register_buffer("positions", positions, persistent=False)
        self.mix = LayerMix(depth, num_encoder_layers, mix_input=True)
        self.memory_norms = ModuleList(
            nn.LayerNorm(embed_dims, eps=1e-6) for _ in range(depth)
        )
        self.layers = ModuleList(
            CrossAttentionLayer(width, embed_dims, decoder_heads) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def init_weights(self) -> None:
        """Initialises from ``init_cfg`` if there is one, else as MAE does."""
        super().init_weights()
        if not self.init_cfg:
            init_like_official(self)
            self.mix.reset_parameters()
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, content: Content, plan: Plan, encoder_layers: ModuleList
    ) -> Tensor:
        """As :meth:`SAIMNeck.forward`, but (B, K, width)."""
        queries = self.mask_token + sort_tokens(self.positions, plan.asked)
        memories = self.mix(content, plan.memory_tokens)
        parts = zip(self.layers, self.memory_norms, memories, strict=True)
        for layer, norm, memory in parts:
            queries = layer(queries, norm(memory), plan.memory_mask)
        return self.norm(queries)


class CrossAttentionLayer(nn.Module):
    """Cross-attention and a feed-forward network, each after a norm.

    Args:
        width: Number of channels of the queries.
        memory_dims: Number of channels of the memory.
        num_heads: Number of attention heads.
    """

    def __init__(self, width: int, memory_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln1 = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(memory_dims, 2 * width)
        self.proj = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width, eps=1e-6)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Mask) -> Tensor:
        """Queries (B, K, width) and normed memory (B, S, D) -> (B, K, width)."""
        k, v = self.kv(memory).chunk(2, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(self.ln1(x)), k, v)
        )
        out = attend(q, k, v, mask)
        x = x + self.proj(out.transpose(1, 2).flatten(2))
        return x + self.ffn(self.ln2(x))

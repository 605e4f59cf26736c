"""RandSAC (Hua et al. 2022): queries that see each other, and read a mix of layers."""

from __future__ import annotations

from typing import Any

from mmengine.model import ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor

from ...registry import register
from ..layers import AttentionBlock
from ..plan import Plan
from ..saim_neck import SAIMNeck
from ..saim_vit import Content


@register("model")
class RandSACNeck(SAIMNeck):
    """SAIM's decoder with self-attention of the queries in front of each layer.

    A query sees those of its own segment and of earlier ones, then the content of
    earlier segments, in a learnt mix of all layers. All patches must be asked for, for
    a query's neighbours change what it predicts.

    Args:
        depth: Number of query layers, at least 1.
        embed_dims: Number of channels D.
        num_heads: Number of attention heads.
        **kwargs: As for :class:`SAIMNeck`; ``memory`` is ``mix`` by default.

    Raises:
        ValueError: As :class:`SAIMNeck`, or if the layers are none or not its own.
    """

    joint = True

    def __init__(
        self,
        depth: int = 12,
        embed_dims: int = 768,
        num_heads: int = 12,
        **kwargs: Any,
    ) -> None:
        if depth < 1 or kwargs.get("tied_decoder") or kwargs.get("coupled"):
            raise ValueError(
                f"RandSACNeck depth={depth} must be at least 1 and tied_decoder=False: "
                "it needs query layers of its own."
            )
        super().__init__(depth, embed_dims, num_heads, **{"memory": "mix", **kwargs})
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
            queries = self_layer(queries, None, *plan.query_mask)
            queries = layer(
                queries, memory, *plan.memory_mask, None, None, content.turns
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
        self, x: Tensor, memory: None, *mask: Any
    ) -> Tensor:
        """(B, K, D) -> (B, K, D); ``mask`` as for :class:`AttentionBlock`."""
        q, k, v = self._project(self.ln1(x), None)
        return x + self.attn.out_drop(self._attend(q, k, v, *mask))

"""The query stream: cross-attention from bare positions to the content stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor

from ..registry import register
from .layers import AttentionBlock, init_like_official
from .order import Visible


@register("model")
class SAIMNeck(BaseModule):
    """SAIM's decoder, the query stream g of Eq. 5.

    Query ``t`` starts as the position embedding of patch z_t and reads, layer by layer,
    the content of z_1..z_{t-1}, never its own patch. Equation 5 feeds it h^(m-1); the
    release follows Algorithm 1 and feeds it the *output* h^(m) of the encoder layer
    beside it, and so do we.

    Inside :class:`~saim_mm.models.SAIM` the three sizes follow from the backbone and
    need not be given.

    Args:
        depth: Number of query layers d. There is one after every M/d-th of the M
            encoder layers, ending with the last (Table 3). 0 means no query stream: the
            encoder's own output for token t-1 predicts patch t (ViT-iGPT).
        embed_dims: Number of channels D.
        num_heads: Number of attention heads.
        feedforward_channels: Hidden channels of the feed-forward network.
        coupled: Whether the query stream runs through the encoder's own layers instead
            of layers of its own ("shared weight" in Table 3).
        norm_cfg: Norm of the layers and of the final norm before the head.
        init_cfg: Initialisation config; by default as in the release.

    Raises:
        ValueError: If the depth is negative, or 0 and coupled.
    """

    def __init__(
        self,
        depth: int = 12,
        embed_dims: int = 768,
        num_heads: int = 12,
        feedforward_channels: int = 3072,
        coupled: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if depth < 0 or (coupled and depth == 0):
            raise ValueError(
                f"SAIMNeck depth={depth} with coupled={coupled}; depth must be at "
                "least 0 (no decoder), and at least 1 for a coupled decoder."
            )
        norm_cfg = norm_cfg or dict(type="LN", eps=1e-6)
        self.depth = depth
        self.coupled = coupled
        own_layers = 0 if coupled else depth
        self.layers = ModuleList(
            AttentionBlock(
                TransformerEncoderLayer(
                    embed_dims, num_heads, feedforward_channels, norm_cfg=norm_cfg
                )
            )
            for _ in range(own_layers)
        )
        self.norm = build_norm_layer(norm_cfg, embed_dims)

    def init_weights(self) -> None:
        """Initialises from ``init_cfg`` if there is one, else as the release does."""
        super().init_weights()
        if not self.init_cfg:
            init_like_official(self)

    def forward(
        self,
        states: Sequence[Tensor],
        positions: Tensor,
        encoder_layers: ModuleList,
        visible: Visible = "causal",
    ) -> Tensor:
        """Runs the query stream over the content states.

        Args:
            states: Sorted outputs of the M encoder layers, M times (B, 1 + N, D).
            positions: Sorted position embeddings (B, N, D), the queries' start.
            encoder_layers: The M encoder layers; a coupled decoder runs through them.
            visible: What the N queries see of the first N content tokens.

        Returns:
            Normed queries (B, N, D), sorted; query t describes patch z_t.
        """
        # The last content token precedes no query, so none may see it.
        if self.depth == 0:
            return self.norm(states[-1][:, :-1])
        stride = len(states) // self.depth
        layers = encoder_layers[stride - 1 :: stride] if self.coupled else self.layers
        queries = positions
        for layer, state in zip(layers, states[stride - 1 :: stride], strict=True):
            queries = layer(queries, state[:, :-1], visible)
        return self.norm(queries)

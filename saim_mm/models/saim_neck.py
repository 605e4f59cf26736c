"""The query stream: cross-attention from bare positions to the content stream."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor

from ..registry import register
from .layers import AttentionBlock, init_like_official
from .order import Plan
from .saim_vit import Content


@register("model")
class SAIMNeck(BaseModule):
    """SAIM's decoder, the query stream g of Eq. 5.

    The query of rank t starts as the position embedding of patch z_t and reads, layer
    by layer, the content of z_1..z_{t-1}, never its own patch. Equation 5 feeds it
    h^(m-1); the release follows Algorithm 1 and feeds it the *output* h^(m) of the
    encoder layer beside it, and so do we.

    Inside :class:`~saim_mm.models.SAIM` the three sizes follow from the backbone and
    need not be given.

    Args:
        depth: Number of query layers d. There is one after every M/d-th of the M
            encoder layers, ending with the last (Table 3). 0 means no query stream: the
            encoder's own output for token t-1 predicts patch t (ViT-iGPT).
        embed_dims: Number of channels D.
        num_heads: Number of attention heads.
        feedforward_channels: Hidden channels of the feed-forward network.
        tied_decoder: Whether the query stream runs through the encoder's own layers
            instead of layers of its own ("shared weight", "coupled" in Table 3).
        norm_cfg: Norm of the layers and of the final norm before the head.
        init_cfg: Initialisation config; by default as in the release.
        coupled: The old name of ``tied_decoder``; it goes with version 0.3.

    Raises:
        ValueError: If the depth is negative, or 0 and tied, or both names are given.
    """

    def __init__(
        self,
        depth: int = 12,
        embed_dims: int = 768,
        num_heads: int = 12,
        feedforward_channels: int = 3072,
        tied_decoder: bool | None = None,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        coupled: bool | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if tied_decoder is not None and coupled is not None:
            raise ValueError(
                f"SAIMNeck got tied_decoder={tied_decoder} and coupled={coupled}; they "
                "are one option, so leave coupled, its old name, out."
            )
        tied = bool(coupled if tied_decoder is None else tied_decoder)
        if depth < 0 or (tied and depth == 0):
            raise ValueError(
                f"SAIMNeck depth={depth} with tied_decoder={tied}; depth must be at "
                "least 0 (no decoder), and at least 1 for a tied decoder."
            )
        norm_cfg = norm_cfg or dict(type="LN", eps=1e-6)
        self.depth = depth
        self.tied_decoder = tied
        own_layers = 0 if tied else depth
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
        self, content: Content, plan: Plan, encoder_layers: ModuleList
    ) -> Tensor:
        """Runs the query stream over the content states.

        Args:
            content: What the backbone returned for the plan.
            plan: Who asks for what.
            encoder_layers: The M encoder layers; a tied decoder runs through them.

        Returns:
            Normed queries (B, K, D), sorted; each describes the patch it asks for.
        """
        states = content.states
        if self.depth == 0:
            return self.norm(states[-1][:, plan.before_asked])
        stride = len(states) // self.depth
        tied = encoder_layers[stride - 1 :: stride]
        queries = content.positions
        for layer, state in zip(
            tied if self.tied_decoder else self.layers,
            states[stride - 1 :: stride],
            strict=True,
        ):
            memory = state[:, : plan.memory_tokens]
            queries = layer(queries, memory, *plan.memory_mask)
        return self.norm(queries)

"""The query stream: cross-attention from bare positions to the content stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args

from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ..registry import register
from .layers import AttentionBlock, init_like_official
from .plan import Plan
from .saim_vit import Content

Memory = Literal["aligned", "last"]
T = TypeVar("T")


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
        memory: What each query layer reads: ``aligned``, the output of the encoder
            layer beside it (the paper; d must divide M), or ``last``, that of the last.

    Raises:
        ValueError: If the depth is negative, or 0 and tied or with a memory, or both
            names are given, or the memory is unknown.
    """

    joint = False  # queries do not see each other

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
        memory: Memory = "aligned",
    ) -> None:
        super().__init__(init_cfg)
        if tied_decoder is not None and coupled is not None:
            raise ValueError(
                f"SAIMNeck got tied_decoder={tied_decoder} and coupled={coupled}; they "
                "are one option, so leave coupled, its old name, out."
            )
        tied = bool(coupled if tied_decoder is None else tied_decoder)
        if depth < 0 or (depth == 0 and (tied or memory != "aligned")):
            raise ValueError(
                f"SAIMNeck depth={depth} with tied_decoder={tied} and memory="
                f"{memory!r}; depth must be at least 0, and at least 1 (depth>=1) "
                "for a tied decoder or another memory than 'aligned'."
            )
        if memory not in get_args(Memory):
            raise ValueError(
                f"SAIMNeck memory={memory!r} is unknown; choose one of "
                f"{get_args(Memory)}, or type='LayerMixNeck'."
            )
        norm_cfg = norm_cfg or dict(type="LN", eps=1e-6)
        self.depth = depth
        self.memory: str = memory
        self.tied_decoder = tied
        self.out_dims = embed_dims
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
        if self.depth == 0:
            return self.norm(content.states[-1][:, plan.before_asked])
        layers = self.layers_of(encoder_layers)
        queries = content.positions
        memories = self._memories(content, plan.memory_tokens)
        for layer, memory in zip(layers, memories, strict=True):
            queries = layer(
                queries, memory, plan.memory_mask, None, None, content.turns
            )
        return self.norm(queries)

    def layers_of(self, encoder_layers: ModuleList) -> Sequence[nn.Module]:
        """The d query layers: its own, or of a tied decoder the encoder's."""
        if self.tied_decoder:
            return _spread(encoder_layers, self.depth)
        return self.layers

    def _memories(self, content: Content, tokens: int) -> Iterator[Tensor]:
        """What each of the d layers reads, (B, S, D)."""
        states: Sequence[Tensor] = content.states[-1:] * self.depth
        if self.memory == "aligned":
            states = _spread(content.states, self.depth)
        return (state[:, :tokens] for state in states)


def _spread(of_layers: Sequence[T], depth: int) -> Sequence[T]:
    """That of every M/d-th layer, ending with the last."""
    stride = len(of_layers) // depth
    return of_layers[stride - 1 :: stride]

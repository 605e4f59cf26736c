"""The transformer layer that both streams are made of.

Shapes: B images, L attending tokens, S tokens of the memory, D channels.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import SwiGLUFFN
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .dense.windows import Windows
from .plan import SEES_ALL, Mask

#: Cosine and sine of the angles of the queries, and of the keys.
Turns: TypeAlias = "tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]"


class AttentionBlock(BaseModule):
    """A pre-norm ViT layer that attends to its own tokens or to a memory.

    It takes over the modules of one of mmpretrain's encoder layers, so its parameters
    keep their names and a plain ViT can load them. Query, key and value stay one
    matrix: the content stream (Eq. 3) projects its tokens in a single product; the
    query stream (Eq. 5) uses the first third for its queries and the other two thirds,
    again in a single product, for the memory.

    Args:
        layer: The layer whose modules are taken over.

    Raises:
        ValueError: If the heads do not divide the channels.
    """

    #: Whether backward runs the layer once more instead of keeping its activations.
    with_cp = False

    def __init__(self, layer: TransformerEncoderLayer) -> None:
        super().__init__()
        width, heads = layer.attn.embed_dims, layer.attn.num_heads
        if width % heads:
            raise ValueError(
                f"embed_dims={width} cannot be shared out to num_heads={heads}; choose "
                "a number of heads that divides it."
            )
        self.ln1 = layer.ln1
        self.attn = layer.attn
        self.ln2 = layer.ln2
        self.ffn = layer.ffn
        # Of each head; a rival's encoder may put norms here.
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Mask = SEES_ALL,
        attn_bias: Tensor | None = None,
        windows: Windows | None = None,
        turns: Turns | None = None,
    ) -> Tensor:
        """Runs attention and feed-forward network.

        Args:
            x: Attending tokens (B, L, D).
            memory: Tokens that are attended to (B, S, D), before any norm: the layer's
                first norm is applied to both. By default ``x`` itself.
            mask: What each of the L tokens sees of the S (or L) attended ones.
            attn_bias: Instead of a mask: added to the scores (H, L, S); with windows,
                to those of each.
            windows: Without memory: attend within these windows only.
            turns: By what queries and keys are turned, see :func:`turn`.

        Returns:
            (B, L, D).
        """
        options = (x, memory, mask, attn_bias, windows, turns)
        if self.with_cp and torch.is_grad_enabled():
            # Not reentrant: that would give no gradient above frozen layers.
            return checkpoint(self._run, *options, use_reentrant=False)
        return self._run(*options)

    def _run(
        self,
        x: Tensor,
        memory: Tensor | None,
        mask: Mask,
        attn_bias: Tensor | None,
        windows: Windows | None,
        turns: Turns | None,
    ) -> Tensor:
        tokens = self.ln1(x)
        if windows is not None:
            tokens = windows.split(tokens)
        q, k, v = self._project(tokens, None if memory is None else self.ln1(memory))
        if turns is not None:
            q, k = turn(q, *turns[0]), turn(k, *turns[1])
        if attn_bias is not None:
            mask = Mask(attn_bias.to(q.dtype))
        out = self.attend(q, k, v, mask)
        if windows is not None:
            out = windows.join(out)
        # Here and not before: drop path drops an image's whole branch, not windows.
        x = x + self.attn.out_drop(out)
        return self.ffn(self.ln2(x), identity=x)

    def _project(
        self, x: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normed tokens -> queries (B, H, L, D/H), keys and values (B, H, S, D/H)."""
        attn, width = self.attn, self.attn.embed_dims
        if memory is None:
            q, k, v = self._split_heads(attn.qkv(x), 3)
        else:
            weight_q, weight_kv = attn.qkv.weight.split([width, 2 * width])
            bias_q = bias_kv = None
            if attn.qkv.bias is not None:
                bias_q, bias_kv = attn.qkv.bias.split([width, 2 * width])
            (q,) = self._split_heads(F.linear(x, weight_q, bias_q), 1)
            k, v = self._split_heads(F.linear(memory, weight_kv, bias_kv), 2)
        return self.q_norm(q), self.k_norm(k), v

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        x = x.unflatten(-1, (parts, self.attn.num_heads, self.attn.head_dims))
        return x.permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Attention of heads (B, H, L, D/H), joined and projected: (B, L, D)."""
        attn = self.attn
        dropout = attn.attn_drop if attn.training else 0.0
        x = attend(q, k, v, mask, dropout)
        return attn.gamma1(attn.proj_drop(attn.proj(x.transpose(1, 2).flatten(2))))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float = 0.0) -> Tensor:
    """Attention under a mask, which is built only where no kernel does without.

    Args:
        q: Queries (B, H, L, D/H).
        k: Keys (B, H, S, D/H); so are the values.
        v: Values.
        mask: What each query sees.
        dropout: Share of the scores that is left out.

    Returns:
        (B, H, L, D/H).
    """
    run = partial(F.scaled_dot_product_attention, dropout_p=dropout)
    attn_mask, is_causal, prefix = mask
    before = k.shape[2] - q.shape[2] if is_causal else 0
    if before:
        # torch aligns at the top left; with rows in front no mask is needed.
        q = F.pad(q, (0, 0, before, 0))
    x = run(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
    if before:
        x = x[:, :, before:]
    if prefix:
        q, k, v = (part[:, :, :prefix] for part in (q, k, v))
        x = torch.cat([run(q, k, v), x[:, :, prefix:]], dim=2)
    return x


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs of channels (i, i + D/2H), in float32: rotary positions.

    ``x`` are queries or keys (B, H, L, D/H), ``cos`` and ``sin`` those of the angles
    (B or 1, 1, L, D/H), float32.
    """
    first, second = x.float().chunk(2, dim=-1)
    turned = x.float() * cos + torch.cat([-second, first], dim=-1) * sin
    return turned.to(x.dtype)


def transformer_layers(
    model: nn.Module,
) -> list[AttentionBlock | TransformerEncoderLayer]:
    """The layers of SAIM's two streams, and of mmpretrain's ViTs, in a model."""
    kinds = (AttentionBlock, TransformerEncoderLayer)
    return [module for module in model.modules() if isinstance(module, kinds)]


def init_like_official(module: nn.Module) -> None:
    """Initialises linear layers and norms as the authors' release does.

    Linear: xavier-uniform weight and zero bias; LayerNorm: one and zero. The release
    keeps query, key and value apart, so each third of our joint matrix is drawn with
    the bounds of its own D x D shape.
    """
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
        elif isinstance(child, nn.LayerNorm) and child.elementwise_affine:
            nn.init.ones_(child.weight)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
    for child in module.modules():
        if isinstance(child, AttentionBlock):
            for third in child.attn.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(third)
        elif isinstance(child, SwiGLUFFN):
            for half in child.w12.weight.chunk(2):
                nn.init.xavier_uniform_(half)

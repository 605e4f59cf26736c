"""How the release, timm and Hugging Face name an encoder, beside our names.

Ours are those of mmpretrain's ``VisionTransformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .keymap import KeyRow


@dataclass(frozen=True)
class Layout:
    """How another project names the modules of an encoder.

    Attributes:
        cls_token: The class token.
        pos_embed: The position embedding, the class token's first.
        projection: The patch projection.
        layers: What precedes a layer's number.
        parts: Our module in a layer -> theirs; three are query, key and value.
        norm: The final norm.
    """

    cls_token: str
    pos_embed: str
    projection: str
    layers: str
    parts: Mapping[str, tuple[str, ...]]
    norm: str

    def encoder(self, depth: int, ours: str = "") -> list[KeyRow]:
        """The table of an encoder without final norm; ``ours`` is our prefix."""
        return [
            (f"{ours}cls_token", (self.cls_token,)),
            (f"{ours}pos_embed", (self.pos_embed,)),
            *weight_and_bias(f"{ours}patch_embed.projection", self.projection),
            *self.stack(depth, f"{ours}layers.", self.layers),
        ]

    def stack(self, depth: int, ours: str, theirs: str) -> list[KeyRow]:
        """The table of ``depth`` layers."""
        return [
            row
            for n in range(depth)
            for part, names in self.parts.items()
            for row in weight_and_bias(
                f"{ours}{n}.{part}", *(f"{theirs}{n}.{name}" for name in names)
            )
        ]


def weight_and_bias(ours: str, *theirs: str) -> list[KeyRow]:
    """The rows of one linear layer, norm or convolution."""
    return [
        (f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs))
        for kind in ("weight", "bias")
    ]


_TIMM_PARTS = {
    "ln1": ("norm1",),
    "attn.qkv": ("attn.qkv",),
    "attn.proj": ("attn.proj",),
    "ln2": ("norm2",),
    "ffn.layers.0.0": ("mlp.fc1",),
    "ffn.layers.1": ("mlp.fc2",),
}
TIMM = Layout(
    "cls_token", "pos_embed", "patch_embed.proj", "blocks.", _TIMM_PARTS, "norm"
)
RELEASE = Layout(
    "cls_token",
    "pos_embed",
    "patch_embed.proj",
    "blocks.",
    {**_TIMM_PARTS, "attn.qkv": ("attn.q", "attn.k", "attn.v")},
    "norm",
)
# As in files of save_pretrained; in memory, version 5 of transformers has other names.
HUGGING_FACE = Layout(
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection",
    "encoder.layer.",
    {
        "ln1": ("layernorm_before",),
        "attn.qkv": (
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
        ),
        "attn.proj": ("attention.output.dense",),
        "ln2": ("layernorm_after",),
        "ffn.layers.0.0": ("intermediate.dense",),
        "ffn.layers.1": ("output.dense",),
    },
    "layernorm",
)

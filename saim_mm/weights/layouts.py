"""How the release, timm, Hugging Face, AIM and NEPA name an encoder, beside our names.

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


def aim_rows(depth: int) -> list[KeyRow]:
    """The table of AIM's release, whose linear layers have no bias."""
    linears = {
        "attn.qkv": "attn.qkv",
        "attn.proj": "attn.proj",
        "ffn.layers.0.0": "mlp.fc1",
        "ffn.layers.1": "mlp.fc2",
    }
    rows = [
        *weight_and_bias("patch_embed.projection", "preprocessor.patchifier.proj"),
        *weight_and_bias("patch_embed.norm", "preprocessor.patchifier.norm"),
        *weight_and_bias("ln1", "trunk.post_trunk_norm"),
    ]
    for n in range(depth):
        ours, theirs = f"layers.{n}", f"trunk.blocks.{n}"
        for number in (1, 2):
            rows += weight_and_bias(f"{ours}.ln{number}", f"{theirs}.norm_{number}")
        rows += [
            (f"{ours}.{a}.weight", (f"{theirs}.{b}.weight",))
            for a, b in linears.items()
        ]
    return rows


def nepa_rows(depth: int, gated: bool, affine: bool) -> list[KeyRow]:
    """The table of NEPA's release.

    Args:
        depth: Number of layers.
        gated: Whether the feed-forward network is gated (SwiGLU).
        affine: Whether the norms of queries and keys have scales.
    """
    hidden, last = "ffn.layers.0.0", "ffn.layers.1"
    into: tuple[str, ...] = ("intermediate.up_proj",)
    if gated:
        hidden, last = "ffn.w12", "ffn.w3"
        into = ("intermediate.gate_proj", *into)
    ffn = {hidden: into, last: ("output.dense",)}
    others = HUGGING_FACE.parts.items()
    parts = {k: v for k, v in others if not k.startswith("ffn.")} | ffn
    scales = {
        "attn.gamma1.weight": "layer_scale.lambda1",
        "ffn.gamma2.weight": "output.layer_scale.lambda1",
    }
    if affine:
        norms = ("q_norm.weight", "k_norm.weight")
        scales |= {norm: f"attention.attention.{norm}" for norm in norms}
    rows = [
        ("cls_token", (HUGGING_FACE.cls_token,)),
        *weight_and_bias("patch_embed.projection", HUGGING_FACE.projection),
        *weight_and_bias("ln1", HUGGING_FACE.norm),
    ]
    for n in range(depth):
        ours, theirs = f"layers.{n}.", f"{HUGGING_FACE.layers}{n}."
        for part, names in parts.items():
            rows += weight_and_bias(ours + part, *(theirs + name for name in names))
        rows += [(ours + a, (theirs + b,)) for a, b in scales.items()]
    return rows

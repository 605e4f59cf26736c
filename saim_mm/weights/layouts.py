"""How the release, timm, Hugging Face, AIM and NEPA name an encoder, beside our names.

Ours are those of mmpretrain's ``VisionTransformer``. In a table ``#`` stands for the
number of a layer, and ``*`` for ``weight`` and ``bias``; three names of theirs are
query, key and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from .keymap import Rows

#: Our name -> theirs, with blanks between them.
Table = Mapping[str, str]


def rows_of(table: Table, depth: int = 1, ours: str = "", theirs: str = "") -> Rows:
    """The rows of a table, of so many layers, with what precedes the names.

    A file without layers is taken for one of one layer, so that it fails by its missing
    keys and does not convert to nothing.
    """
    rows = {}
    layers = range(max(depth, 1))
    for n, (key, keys), kind in product(layers, table.items(), ("weight", "bias")):
        key, *others = f"{key} {keys}".replace("#", f"{n}").replace("*", kind).split()
        rows[ours + key] = tuple(theirs + other for other in others)
    return rows


_FIXED = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.projection.*": "patch_embed.proj.*",
}
_TIMM_LAYERS = {
    "layers.#.ln1.*": "blocks.#.norm1.*",
    "layers.#.attn.qkv.*": "blocks.#.attn.qkv.*",
    "layers.#.attn.proj.*": "blocks.#.attn.proj.*",
    "layers.#.ln2.*": "blocks.#.norm2.*",
    "layers.#.ffn.layers.0.0.*": "blocks.#.mlp.fc1.*",
    "layers.#.ffn.layers.1.*": "blocks.#.mlp.fc2.*",
}
_SEPARATE = "blocks.#.attn.q.* blocks.#.attn.k.* blocks.#.attn.v.*"
RELEASE_LAYERS: Table = {**_TIMM_LAYERS, "layers.#.attn.qkv.*": _SEPARATE}
# Encoders without their final norm, which not all have.
TIMM: Table = {**_FIXED, **_TIMM_LAYERS}
RELEASE: Table = {**_FIXED, **RELEASE_LAYERS}
_HF_ATTENTION = "encoder.layer.#.attention.attention"
# As in files of save_pretrained; in memory, version 5 of transformers has other names.
HUGGING_FACE: Table = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.projection.*": "embeddings.patch_embeddings.projection.*",
    "layers.#.ln1.*": "encoder.layer.#.layernorm_before.*",
    "layers.#.attn.qkv.*": " ".join(
        f"{_HF_ATTENTION}.{part}.*" for part in ("query", "key", "value")
    ),
    "layers.#.attn.proj.*": "encoder.layer.#.attention.output.dense.*",
    "layers.#.ln2.*": "encoder.layer.#.layernorm_after.*",
    "layers.#.ffn.layers.0.0.*": "encoder.layer.#.intermediate.dense.*",
    "layers.#.ffn.layers.1.*": "encoder.layer.#.output.dense.*",
}
#: AIM's linear layers have no bias.
AIM: Table = {
    "patch_embed.projection.*": "preprocessor.patchifier.proj.*",
    "patch_embed.norm.*": "preprocessor.patchifier.norm.*",
    "ln1.*": "trunk.post_trunk_norm.*",
    "layers.#.ln1.*": "trunk.blocks.#.norm_1.*",
    "layers.#.ln2.*": "trunk.blocks.#.norm_2.*",
    "layers.#.attn.qkv.weight": "trunk.blocks.#.attn.qkv.weight",
    "layers.#.attn.proj.weight": "trunk.blocks.#.attn.proj.weight",
    "layers.#.ffn.layers.0.0.weight": "trunk.blocks.#.mlp.fc1.weight",
    "layers.#.ffn.layers.1.weight": "trunk.blocks.#.mlp.fc2.weight",
}


def nepa_table(gated: bool, affine: bool) -> Table:
    """The table of NEPA's release, which builds on Hugging Face's.

    Args:
        gated: Whether the feed-forward network is gated (SwiGLU).
        affine: Whether the norms of queries and keys have scales.
    """
    others = HUGGING_FACE.items()
    table = {
        "ln1.*": "layernorm.*",
        **{k: v for k, v in others if k != "pos_embed" and ".ffn." not in k},
        "layers.#.attn.gamma1.weight": "encoder.layer.#.layer_scale.lambda1",
        "layers.#.ffn.gamma2.weight": "encoder.layer.#.output.layer_scale.lambda1",
    }
    hidden, last = "layers.#.ffn.layers.0.0.*", "layers.#.ffn.layers.1.*"
    up = "encoder.layer.#.intermediate.up_proj.*"
    if gated:
        hidden, last = "layers.#.ffn.w12.*", "layers.#.ffn.w3.*"
        up = f"encoder.layer.#.intermediate.gate_proj.* {up}"
    table |= {hidden: up, last: "encoder.layer.#.output.dense.*"}
    if affine:
        for norm in ("q_norm.weight", "k_norm.weight"):
            table[f"layers.#.{norm}"] = f"{_HF_ATTENTION}.{norm}"
    return table

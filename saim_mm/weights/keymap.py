"""Renaming the keys of a state dict by a table, with every key accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .files import CheckpointError, StateDict
from .position import copy_note

#: Our key -> theirs. Several of theirs are stacked along dimension 0 to make ours:
#: separate query, key and value become one matrix.
Rows = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Conversion:
    """A converted state dict and what became of the source.

    Attributes:
        state_dict: The result.
        used: Keys of the source that went into it.
        dropped: Keys of the source that did not, by the name of the allow-list.
    """

    state_dict: StateDict
    used: tuple[str, ...]
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)


def to_ours(
    rows: Rows,
    source: Mapping[str, Tensor],
    what: str,
    allowed: Mapping[str, str] | None = None,
) -> Conversion:
    """Renames their keys to ours, by a table.

    Args:
        rows: The table.
        source: A state dict in their names.
        what: What it should be, for the error.
        allowed: Allow-list name -> regular expression of keys that may be dropped,
            matched from a key's start.

    Raises:
        CheckpointError: If a key of the table is missing, or another is in no list.
    """
    used = tuple(key for theirs in rows.values() for key in theirs)
    dropped = _account(source, used, what, allowed or {})
    result = {}
    for ours, theirs in rows.items():
        parts = [source[key] for key in theirs]
        result[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return Conversion(copy_note(source, result), used, dropped)


def to_theirs(
    rows: Rows,
    source: Mapping[str, Tensor],
    what: str,
    allowed: Mapping[str, str] | None = None,
) -> Conversion:
    """Renames our keys to theirs; the inverse of :func:`to_ours`, bit for bit."""
    dropped = _account(source, tuple(rows), what, allowed or {})
    result: StateDict = {}
    for ours, theirs in rows.items():
        tensor = source[ours]
        parts = tensor.chunk(len(theirs)) if len(theirs) > 1 else (tensor,)
        result.update(zip(theirs, parts, strict=True))
    return Conversion(copy_note(source, result), tuple(rows), dropped)


def _account(
    source: Iterable[str], used: Sequence[str], what: str, allowed: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The keys that are not used, by the name of their allow-list."""
    needed = set(used)
    missing = sorted(needed.difference(source))
    rest = [key for key in source if key not in needed]
    dropped: dict[str, tuple[str, ...]] = {}
    for name, pattern in allowed.items():
        matched = tuple(key for key in rest if re.match(pattern, key))
        rest = [key for key in rest if key not in matched]
        if matched:
            dropped[name] = matched
    if missing or rest:
        hint = f" {describe(source)}" if kind_of(source) != what else ""
        raise CheckpointError(
            f"The checkpoint is not {what}.{hint} "
            f"Missing keys ({len(missing)}): {_shown(missing)}; "
            f"unexpected keys ({len(rest)}): {_shown(rest)}."
        )
    return dropped


def _shown(keys: Sequence[str]) -> str:
    """A line of them, of which the rest looks the same."""
    more = len(keys) - _SHOWN
    return f"{list(keys[:_SHOWN])}{f' and {more} more' if more > 0 else ''}"


def count_layers(state: Iterable[str], prefix: str) -> int:
    """One more than the largest N in keys ``prefix`` + ``N.``, or 0."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    found = (pattern.match(key) for key in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def has_narrow_decoder(state: Iterable[str]) -> bool:
    """Whether a model's decoder is a ``CrossMAENeck``.

    Its norm is of channels of its own, and so no final norm of the encoder.
    """
    return "neck.mask_token" in state


#: What a source can be, in errors.
RELEASE = "a pretraining checkpoint of the authors' release"
RELEASE_CLASSIFIER = "a classifier of the authors' release"
TIMM = "a timm ViT"
HUGGING_FACE = "a Hugging Face ViTModel"
AIM = "a release of AIM"
NEPA = "a release of NEPA"
DINO = "a pretraining checkpoint of DINO's authors"
PRETRAINING = "a SAIM pretraining checkpoint of ours"
ENCODER = "a bare encoder"
#: Keys that an error names.
_SHOWN = 8
# What has such a key; the first that matches counts.
_SIGNS = {
    RELEASE: r"query_blocks\.\d+\.",
    RELEASE_CLASSIFIER: r"blocks\.\d+\.attn\.q\.",
    DINO: r"backbone\.blocks\.\d+\.attn\.qkv\.",
    AIM: r"trunk\.blocks\.\d+\.norm_1\.",
    NEPA: r"(?:vit_nepa\.)?encoder\.layer\.\d+\.intermediate\.up_proj\.",
    TIMM: r"blocks\.\d+\.attn\.qkv\.",
    HUGGING_FACE: r"(?:vit\.)?encoder\.layer\.\d+\.attention\.",
    PRETRAINING: r"neck\.(?:norm|layers\.\d+\.ln1)\.",
    ENCODER: r"layers\.\d+\.ln1\.",
}
_TOOL = "tools/model_converters/{} converts it"
_VERB = "'saim-mm convert FILE encoder.pth --source {}' converts it"
_REMEDIES = {
    RELEASE: _TOOL.format("official_to_saim.py"),
    RELEASE_CLASSIFIER: _TOOL.format("official_finetuned_to_mmpretrain.py"),
    DINO: _VERB.format("dino"),
    AIM: _VERB.format("aim"),
    NEPA: _VERB.format("nepa"),
    TIMM: _TOOL.format("encoder_to_timm.py --reverse"),
    HUGGING_FACE: _TOOL.format("encoder_to_hf.py --reverse"),
    PRETRAINING: "its encoder has the prefix 'backbone.', and "
    "tools/model_converters/saim_to_encoder.py takes it out",
    ENCODER: "it needs no prefix; 'saim-mm convert' takes it as --source encoder",
}


def describe(keys: Iterable[str]) -> str:
    """What a state dict looks like, and what to do about it, in a sentence or two."""
    keys = list(keys)
    if foreign := describe_foreign(keys):
        return foreign
    for key in keys:
        if inner := re.match(r"(.+?\.)layers\.\d+\.ln1\.", key):
            return (
                f"It looks like an encoder under the prefix {inner[1]!r}: set "
                f"prefix={inner[1]!r}."
            )
    return (
        "Its layout is none of those known here; it should be a ViT in the names of "
        "mmpretrain's VisionTransformer (patch_embed.projection.weight, "
        "layers.0.ln1.weight, ...), and tools/model_converters/ makes such files from "
        "the authors' release, timm and Hugging Face."
    )


def describe_foreign(keys: Iterable[str]) -> str:
    """As :func:`describe`, or '' where the keys have none of the known signs."""
    kind = kind_of(keys)
    return f"It looks like {kind}: {_REMEDIES[kind]}." if kind else ""


def kind_of(keys: Iterable[str]) -> str:
    """What the keys say they are, such as :data:`RELEASE`; or ''."""
    keys = list(keys)
    for kind, sign in _SIGNS.items():
        if any(re.match(sign, key) for key in keys):
            return kind
    return ""

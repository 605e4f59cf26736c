"""Key maps between our checkpoints and those of others, as pure functions.

In a whole model of ours the keys of the encoder follow ``backbone.``. Every map
accounts for every key: a key is used, or dropped by a named allow-list, or the map
raises :class:`CheckpointError` and lists it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .blur import Smoothing, check_blur, gaussian_kernel
from .files import CheckpointError
from .keymap import Conversion, Row, account, count_layers, to_ours, to_theirs
from .layouts import HUGGING_FACE, RELEASE, TIMM, Layout, weight_and_bias

_BLUR = "gaussian_blur.weight"
_PRETRAINING = "a SAIM pretraining checkpoint of ours"
_RELEASE = "a pretraining checkpoint of the authors' release"
_ENCODER = "a bare encoder"


def release_to_saim(
    state: Mapping[str, Tensor], smoothing: Smoothing | None = (9, 1.0)
) -> Conversion:
    """The release's pretraining checkpoint -> ours.

    Args:
        state: What the release's file holds under ``model``.
        smoothing: Kernel size and sigma that the file's blur must have, as the model
            will; ``None`` if it must have none.

    Returns:
        The conversion. The blur is used for the comparison only: ours follows from the
        config and is no weight.

    Raises:
        CheckpointError: If a key is missing or unexpected, or the blur is another.
    """
    coupled = _shares_weights(state)
    rows = _pretraining_rows(
        depth=count_layers(state, "blocks."),
        decoder_depth=0 if coupled else max(count_layers(state, "query_blocks."), 1),
        mlp="prediction_head.fc1.weight" in state,
    )
    allowed = {"query_blocks, shared with blocks": r"query_blocks\."} if coupled else {}
    weights = {key: tensor for key, tensor in state.items() if key != _BLUR}
    conversion = to_ours(rows, weights, _RELEASE, allowed)
    if (_BLUR in state) != (smoothing is not None):
        found = "no" if smoothing else "a"
        raise CheckpointError(
            f"The checkpoint has {found} key {_BLUR!r} and smoothing={smoothing}; set "
            "smoothing=None (--no-smoothing) if, and only if, it was trained without."
        )
    if smoothing is None:
        return conversion
    check_blur(state[_BLUR], smoothing)
    return replace(conversion, used=(*conversion.used, _BLUR))


def saim_to_release(
    state: Mapping[str, Tensor],
    smoothing: Smoothing | None = (9, 1.0),
    blur: Tensor | None = None,
    coupled: bool = False,
) -> Conversion:
    """Our pretraining checkpoint -> the release's; inverse of :func:`release_to_saim`.

    Args:
        state: Our state dict.
        smoothing: Kernel size and sigma of our head, or ``None``.
        blur: The release's own ``gaussian_blur.weight``, if the checkpoint was once
            converted from it. Ours differs in the last bit.
        coupled: Must be set for a checkpoint without decoder layers: the keys do not
            tell a coupled decoder from none, for which the release has no layout.

    Returns:
        The conversion.

    Raises:
        CheckpointError: If a key is missing or unexpected.
    """
    depth = count_layers(state, "backbone.layers.")
    decoder_depth = count_layers(state, "neck.layers.")
    if coupled == bool(decoder_depth):
        raise CheckpointError(
            f"The checkpoint has {decoder_depth} decoder layers and coupled={coupled}. "
            "Set coupled=True (--coupled) if, and only if, its decoder runs through "
            "the encoder's layers; the release has no layout for a model without "
            "decoder."
        )
    mlp = "head.projector.to_pixels.0.weight" in state
    rows = _pretraining_rows(depth, decoder_depth, mlp)
    allowed = {"data_preprocessor": r"data_preprocessor\."}
    conversion = to_theirs(rows, state, _PRETRAINING, allowed)
    result = conversion.state_dict
    if coupled:
        shared = {f"query_{k}": v for k, v in result.items() if k.startswith("blocks.")}
        result.update(shared)
    if smoothing is not None:
        channels = state["backbone.patch_embed.projection.weight"].shape[1]
        kernel = gaussian_kernel(*smoothing, channels) if blur is None else blur
        check_blur(kernel, smoothing)
        result[_BLUR] = kernel
    return conversion


def saim_to_encoder(
    state: Mapping[str, Tensor], final_norm: bool = False, prefix: str = ""
) -> Conversion:
    """Our pretraining checkpoint -> bare encoder, as ``VisionTransformer`` names it.

    Args:
        state: Our state dict.
        final_norm: Whether to keep the decoder's norm as the final norm ``ln1``. The
            encoder has none in pretraining; the release starts fine-tuning on the class
            token from the decoder's.
        prefix: What precedes every key of the result, such as ``backbone.``.

    Returns:
        The conversion.

    Raises:
        CheckpointError: If a key is missing or unexpected.
    """
    depth = count_layers(state, "backbone.layers.")
    # Their layout does not matter here: the rows name the keys of an encoder of ours.
    keys = [ours for ours, _ in TIMM.encoder(depth)]
    renamed = {f"backbone.{key}": f"{prefix}{key}" for key in keys}
    if final_norm:
        for kind in ("weight", "bias"):
            renamed[f"neck.norm.{kind}"] = f"{prefix}ln1.{kind}"
    allowed = {
        "decoder (neck)": r"neck\.",
        "head": r"head\.",
        "data_preprocessor": r"data_preprocessor\.",
    }
    dropped = account(state, renamed, _PRETRAINING, allowed)
    result = {new: state[old] for old, new in renamed.items()}
    return Conversion(result, tuple(renamed), dropped)


def encoder_to_timm(state: Mapping[str, Tensor]) -> Conversion:
    """Bare encoder -> timm's ``vit_*``; without ``ln1``, for ``final_norm=False``."""
    rows = _encoder_rows(TIMM, count_layers(state, "layers."), "ln1.weight" in state)
    return to_theirs(rows, state, _ENCODER)


def timm_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """A ``vit_*`` of timm -> bare encoder; a classifier on top is dropped."""
    rows = _encoder_rows(TIMM, count_layers(state, "blocks."), "norm.weight" in state)
    return to_ours(rows, state, "a timm ViT", {"classifier": r"head\.(weight|bias)$"})


def encoder_to_hf(state: Mapping[str, Tensor]) -> Conversion:
    """Bare encoder with final norm -> ``ViTModel`` of transformers, without pooler."""
    if count_layers(state, "layers.") and "ln1.weight" not in state:
        raise CheckpointError(
            "The encoder has no final norm 'ln1' and ViTModel always applies one; "
            "export the encoder with saim_to_encoder.py --final-norm."
        )
    return to_theirs(
        _encoder_rows(HUGGING_FACE, count_layers(state, "layers."), True),
        state,
        _ENCODER,
    )


def hf_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """``ViTModel`` of transformers -> bare encoder; pooler and classifier dropped."""
    state = {key.removeprefix("vit."): tensor for key, tensor in state.items()}
    rows = _encoder_rows(HUGGING_FACE, count_layers(state, "encoder.layer."), True)
    allowed = {"pooler": r"pooler\.", "classifier": r"classifier\."}
    return to_ours(rows, state, "a Hugging Face ViTModel", allowed)


def release_to_finetuned(state: Mapping[str, Tensor]) -> Conversion:
    """The release's fine-tuned classifier -> an ``ImageClassifier`` of mmpretrain.

    Its final norm becomes ``ln1`` if it classifies by the class token (``norm``), and
    ``ln2``, which follows the pooling, if by the mean of the patches (``fc_norm``).
    """
    depth = count_layers(state, "blocks.")
    pooled = "fc_norm.weight" in state
    rows = _finetuned_rows(depth, pooled, "head.fc")
    return to_ours(rows, state, "a fine-tuned checkpoint of the authors' release")


def finetuned_to_release(state: Mapping[str, Tensor]) -> Conversion:
    """An ``ImageClassifier`` of mmpretrain -> the release; both kinds, both heads."""
    depth = count_layers(state, "backbone.layers.")
    pooled = "backbone.ln2.weight" in state
    # LinearClsHead and VisionTransformerClsHead.
    head = "head.layers.head" if "head.layers.head.weight" in state else "head.fc"
    return to_theirs(
        _finetuned_rows(depth, pooled, head),
        state,
        "an ImageClassifier of mmpretrain with a plain ViT and one linear layer",
        {"data_preprocessor": r"data_preprocessor\."},
    )


def _encoder_rows(layout: Layout, depth: int, final_norm: bool) -> list[Row]:
    norm = weight_and_bias("ln1", layout.norm) if final_norm else []
    # A file without layers must fail by its missing keys, not convert to nothing.
    return layout.encoder(max(depth, 1)) + norm


def _pretraining_rows(depth: int, decoder_depth: int, mlp: bool) -> list[Row]:
    """The table of a whole SAIM model; ``mlp`` or linear head."""
    pixels, head = "head.projector.to_pixels", "prediction_head"
    projector = weight_and_bias(pixels, head)
    if mlp:
        projector = [
            *weight_and_bias(f"{pixels}.0", f"{head}.fc1"),
            *weight_and_bias(f"{pixels}.2", f"{head}.fc2"),
        ]
    return [
        *RELEASE.encoder(max(depth, 1), "backbone."),
        *RELEASE.stack(decoder_depth, "neck.layers.", "query_blocks."),
        *weight_and_bias("neck.norm", "norm"),
        *projector,
    ]


def _finetuned_rows(depth: int, pooled: bool, head: str) -> list[Row]:
    norm = ("backbone.ln2", "fc_norm") if pooled else ("backbone.ln1", "norm")
    return [
        *RELEASE.encoder(max(depth, 1), "backbone."),
        *weight_and_bias(*norm),
        *weight_and_bias(head, "head"),
    ]


def _shares_weights(state: Mapping[str, Tensor]) -> bool:
    """Whether the release's decoder is its encoder: then it saves the weights twice."""
    blocks = {k: v for k, v in state.items() if k.startswith("blocks.")}
    query = {k: v for k, v in state.items() if k.startswith("query_blocks.")}
    if not blocks or {f"query_{key}" for key in blocks} != set(query):
        return False
    return all(
        torch.equal(tensor, query[f"query_{key}"]) for key, tensor in blocks.items()
    )

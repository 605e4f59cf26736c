"""Key maps between our checkpoints and those of others, as pure functions.

In a whole model of ours the keys of the encoder follow ``backbone.``. Every map
accounts for every key: a key is used, or dropped by a named allow-list, or the map
raises :class:`CheckpointError` and lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from . import keymap
from .blur import Smoothing, check_blur, gaussian_kernel
from .files import CheckpointError
from .keymap import Conversion, Rows, count_layers, to_ours, to_theirs
from .layouts import HUGGING_FACE, RELEASE, RELEASE_LAYERS, TIMM, rows_of
from .loading import shown
from .tied_decoder import own_decoder_layers, shares_weights

_BLUR = "gaussian_blur.weight"
_HEAD = "prediction_head"
_PREPROCESSOR = {"data_preprocessor": r"data_preprocessor\."}


def release_to_saim(
    state: Mapping[str, Tensor],
    smoothing: Smoothing | None = (9, 1.0),
    decoder_depth: int | None = None,
) -> Conversion:
    """The release's pretraining checkpoint -> ours.

    A decoder that shares the encoder's layers becomes a coupled one of ours if it runs
    through all of them. The release runs a shallower one through the *first* layers and
    ours through every k-th, so that one becomes a decoder with layers of its own: the
    same values, but from there on trained apart from the encoder.

    Args:
        state: What the release's file holds under ``model``.
        smoothing: Kernel size and sigma that the file's blur must have, as the model
            will; ``None`` if it must have none.
        decoder_depth: How many layers a decoder of shared layers runs through, which
            the release does not save; by default all. Of any other decoder the file
            tells it.

    Returns:
        The conversion. Our blur follows from the config and is no weight.

    Raises:
        CheckpointError: Also if the blur or the decoder's depth is another, or the
            projector is neither an MLP nor a linear layer.
    """
    _check_projector(state)
    depth = count_layers(state, "blocks.")
    own_layers = own_decoder_layers(state, decoder_depth)
    rows = _pretraining_rows(depth, own_layers, f"{_HEAD}.fc1.weight" in state)
    name = f"query_blocks, shared with all {depth} blocks"
    if own_layers:
        name = f"query_blocks beyond the {own_layers} that run"
    allowed = {name: r"query_blocks\."} if shares_weights(state) else {}
    allowed["blur"] = f"{_BLUR}$"
    conversion = to_ours(rows, state, keymap.RELEASE, allowed)
    blur = conversion.dropped.pop("blur", ())
    if bool(blur) != (smoothing is not None):
        found = "no" if smoothing else "a"
        raise CheckpointError(
            f"The checkpoint has {found} key {_BLUR!r} and smoothing={smoothing}; set "
            "smoothing=None (--no-smoothing) if, and only if, it was trained without."
        )
    if smoothing is not None:
        check_blur(state[_BLUR], smoothing)
    return replace(conversion, used=conversion.used + blur)


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
            tell a coupled decoder of all layers from a shallower one or from none, and
            for these the release has no layout.
    """
    depth = count_layers(state, "backbone.layers.")
    decoder_depth = count_layers(state, "neck.layers.")
    if coupled == bool(decoder_depth):
        raise CheckpointError(
            f"The checkpoint has {decoder_depth} decoder layers and coupled={coupled}. "
            "Set coupled=True (--coupled) if, and only if, its decoder runs through "
            "all of the encoder's layers; the release has no layout for a model "
            "without decoder."
        )
    if keymap.has_narrow_decoder(state):
        raise CheckpointError(
            "The checkpoint has a narrow decoder (neck.mask_token), for which the "
            "release has no layout; 'saim-mm convert CHECKPOINT encoder.pth' takes "
            "the encoder out."
        )
    if any(key.startswith("head.projector.layers.") for key in state):
        raise CheckpointError(
            "The checkpoint has a transformer projector (head.projector.layers.*). The "
            "release has an MLP and a linear layer only, so there is no layout for it; "
            "tools/model_converters/saim_to_encoder.py takes the encoder out."
        )
    mlp = "head.projector.to_pixels.0.weight" in state
    rows = _pretraining_rows(depth, decoder_depth, mlp)
    conversion = to_theirs(rows, state, keymap.PRETRAINING, _PREPROCESSOR)
    result = conversion.state_dict
    if coupled:
        blocks = [key for key in result if key.startswith("blocks.")]
        result.update({f"query_{key}": result[key] for key in blocks})
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
    """
    if final_norm and keymap.has_narrow_decoder(state):
        raise CheckpointError(
            "final_norm=True (--final-norm): the norm of a narrow decoder is none of "
            "the encoder; leave it out."
        )
    same = {key: key for key in TIMM}
    rows = rows_of(same, count_layers(state, "backbone.layers."), "backbone.", prefix)
    if final_norm:
        rows |= rows_of({"neck.norm.*": f"{prefix}ln1.*"})
    allowed = {"decoder (neck)": r"neck\.", "head": r"head\.", **_PREPROCESSOR}
    return to_theirs(rows, state, keymap.PRETRAINING, allowed)


def encoder_to_timm(state: Mapping[str, Tensor]) -> Conversion:
    """Bare encoder -> timm's ``vit_*``; without ``ln1``, for ``final_norm=False``."""
    rows = timm_rows(count_layers(state, "layers."), "ln1.weight" in state)
    return to_theirs(rows, state, keymap.ENCODER)


def timm_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """A ``vit_*`` of timm -> bare encoder; a classifier on top is dropped."""
    rows = timm_rows(count_layers(state, "blocks."), "norm.weight" in state)
    return to_ours(rows, state, keymap.TIMM, {"classifier": r"head\.(weight|bias)$"})


def encoder_to_hf(state: Mapping[str, Tensor]) -> Conversion:
    """Bare encoder with final norm -> ``ViTModel`` of transformers, without pooler."""
    depth = count_layers(state, "layers.")
    if depth and "ln1.weight" not in state:
        raise CheckpointError(
            "The encoder has no final norm 'ln1' and ViTModel always applies one; "
            "give the checkpoint of the run (iter_N.pth or epoch_N.pth), whose decoder "
            "has one, or what 'saim-mm convert CHECKPOINT encoder.pth --final-norm' "
            "writes. The narrow decoder of the fast recipe has none: export such an "
            "encoder for timm, or as .onnx or .pt2."
        )
    return to_theirs(_hf_rows(depth), state, keymap.ENCODER)


def hf_to_encoder(state: Mapping[str, Tensor]) -> Conversion:
    """``ViTModel`` of transformers -> bare encoder; pooler and classifier dropped."""
    state = {key.removeprefix("vit."): tensor for key, tensor in state.items()}
    rows = _hf_rows(count_layers(state, "encoder.layer."))
    allowed = {"pooler": r"pooler\.", "classifier": r"classifier\."}
    return to_ours(rows, state, keymap.HUGGING_FACE, allowed)


def release_to_finetuned(state: Mapping[str, Tensor]) -> Conversion:
    """The release's classifier -> an ``ImageClassifier`` of mmpretrain.

    Its final norm becomes ``ln1`` if it classifies by the class token (``norm``), and
    ``ln2``, which follows the pooling, if by the mean of the patches (``fc_norm``). The
    batch norm of a linear probe becomes a ``ClsBatchNormNeck``.
    """
    depth = count_layers(state, "blocks.")
    pooled, probe = "fc_norm.weight" in state, "head.0.running_mean" in state
    rows = _classifier_rows(depth, pooled, probe, "head.fc")
    return to_ours(rows, state, keymap.RELEASE_CLASSIFIER)


def finetuned_to_release(state: Mapping[str, Tensor]) -> Conversion:
    """An ``ImageClassifier`` of mmpretrain -> the release; all kinds, both heads."""
    depth = count_layers(state, "backbone.layers.")
    pooled, probe = "backbone.ln2.weight" in state, "neck.bn.running_mean" in state
    # LinearClsHead and VisionTransformerClsHead.
    head = "head.layers.head" if "head.layers.head.weight" in state else "head.fc"
    what = "an ImageClassifier of mmpretrain with a plain ViT and one linear layer"
    return to_theirs(
        _classifier_rows(depth, pooled, probe, head), state, what, _PREPROCESSOR
    )


def timm_rows(depth: int, final_norm: bool) -> Rows:
    """The table of a ``vit_*`` of timm."""
    return rows_of(TIMM, depth) | (rows_of({"ln1.*": "norm.*"}) if final_norm else {})


def _hf_rows(depth: int) -> Rows:
    return rows_of(HUGGING_FACE, depth) | rows_of({"ln1.*": "layernorm.*"})


def _pretraining_rows(depth: int, decoder_depth: int, mlp: bool) -> Rows:
    """The table of a whole SAIM model; ``mlp`` or linear head."""
    rows = rows_of(RELEASE, depth, "backbone.")
    if decoder_depth:
        rows |= rows_of(RELEASE_LAYERS, decoder_depth, "neck.", "query_")
    rows |= rows_of({"neck.norm.*": "norm.*"})
    head = {"0.*": "fc1.*", "2.*": "fc2.*"} if mlp else {"*": "*"}
    return rows | rows_of(head, 1, "head.projector.to_pixels.", f"{_HEAD}.")


def _classifier_rows(depth: int, pooled: bool, probe: bool, head: str) -> Rows:
    """The table of a classifier; ``probe``: with a batch norm before the last layer."""
    norm = {"ln2.*": "fc_norm.*"} if pooled else {"ln1.*": "norm.*"}
    rows = rows_of(RELEASE, depth, "backbone.") | rows_of(norm, 1, "backbone.")
    if probe:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        rows |= rows_of({kind: kind for kind in statistics}, 1, "neck.bn.", "head.0.")
    return rows | rows_of({f"{head}.*": "head.1.*" if probe else "head.*"})


def _check_projector(state: Mapping[str, Tensor]) -> None:
    known = re.compile(rf"(?!{_HEAD}\.)|{_HEAD}\.(?:fc[12]\.)?(?:weight|bias)$")
    if unknown := [key for key in state if not known.match(key)]:
        raise CheckpointError(
            f"The checkpoint's {_HEAD} is neither an MLP (fc1, fc2) nor a linear layer "
            f"(weight, bias), the two of the published release: it has "
            f"{shown(unknown)}. The release has no transformer projector (Table 4), so "
            "no layout of it is known; only a checkpoint with one of the two converts."
        )

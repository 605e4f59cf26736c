"""The encoder of any file that the converters know, in our names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import keymap
from .blur import infer_smoothing
from .conversions import (
    hf_to_encoder,
    release_to_finetuned,
    release_to_saim,
    saim_to_encoder,
    timm_to_encoder,
)
from .files import CheckpointError, StateDict, read_checkpoint, weights_of
from .hub_folder import find_weights, settings_beside
from .keymap import Conversion, count_layers, describe, kind_of
from .position import with_note
from .rivals import NEPAConfig, aim_to_encoder, dino_to_encoder, nepa_to_encoder
from .tied_decoder import shares_weights

_BLUR = "gaussian_blur.weight"
#: What lies beside the encoder: MAE's decoder, in its authors' names and in those of
#: transformers, and the norm after a pooling, as our ``ln2``.
_BESIDE = r"decoder_|decoder\.|mask_token$|fc_norm\."
#: Epsilon of the layer norms where nothing tells it: each library's own.
_EPS = {
    keymap.TIMM: 1e-6,
    keymap.HUGGING_FACE: 1e-12,
    keymap.DINO: 1e-6,
    keymap.AIM: 1e-6,
    keymap.NEPA: 1e-12,
}


@dataclass(frozen=True)
class EncoderFile:
    """What a file says of an encoder.

    Attributes:
        state: Its weights in our names, with what lies beside them in our models.
        prefix: What precedes the encoder's keys.
        settings: The config that was found in the file or beside it, in our names.
    """

    state: StateDict
    prefix: str
    settings: dict[str, Any]


def read_encoder_file(path: str | Path) -> EncoderFile:
    """Reads an encoder.

    Args:
        path: A pretraining checkpoint or a classifier, of ours, mmpretrain or the
            authors' release; a bare encoder; what MAE, DINO, AIM or NEPA released; a
            ViT of timm; or one of Hugging Face, best as the folder that says its sizes.
            NEPA must have its config.json beside it.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged or holds none of these.
    """
    weights = find_weights(Path(path))
    content = read_checkpoint(weights)
    state = weights_of(content, weights)
    kind = kind_of(state)
    convert = _CONVERT.get(kind)
    if kind == keymap.NEPA:
        convert = partial(nepa_to_encoder, config=NEPAConfig.beside(weights))
    if kind in _EPS:
        settings = settings_beside(weights, _EPS[kind])
        for key in [key for key in state if re.match(_BESIDE, key)]:
            del state[key]  # in place: torch's notes hang on the dict
    else:
        meta = content.get("meta")
        text = meta.get("cfg") if isinstance(meta, Mapping) else None
        settings = _parse_config_text(text if isinstance(text, str) else "")
    try:
        state = convert(state).state_dict if convert else state
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    if kind in _EPS and "img_size" in settings["model"]["backbone"]:
        rows, columns = settings["model"]["backbone"]["img_size"]
        high, wide = state["patch_embed.projection.weight"].shape[2:]
        state = with_note(state, (rows // high, columns // wide))
    for prefix in ("", "backbone."):
        if f"{prefix}layers.0.ln1.weight" in state:
            return EncoderFile(state, prefix, settings)
    raise CheckpointError(f"{weights}: holds no encoder. {describe(state)}")


def _encoder_of_release(state: StateDict) -> Conversion:
    """Neither the blur nor what becomes of the decoder matters to the encoder."""
    smoothing = infer_smoothing(state[_BLUR]) if _BLUR in state else None
    saved = count_layers(state, "query_blocks.")
    shallow = shares_weights(state) and saved < count_layers(state, "blocks.")
    ours = release_to_saim(state, smoothing, saved if shallow else None)
    return saim_to_encoder(ours.state_dict)


def _parse_config_text(text: str) -> dict[str, Any]:
    """The settings in a config that MMEngine keeps in a checkpoint; it is not run.

    It is Python: assignments of literals and ``dict(...)`` calls. Whatever else there
    is, is left out.
    """
    settings: dict[str, Any] = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                with suppress(ValueError, TypeError):
                    value = ast.literal_eval(_DictCalls().visit(node.value))
                    settings[node.targets[0].id] = value
    return settings


class _DictCalls(ast.NodeTransformer):
    """Makes a literal of ``dict(...)``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if node.args or getattr(node.func, "id", None) != "dict":
            return node
        keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
        return ast.Dict(keys, [k.value for k in node.keywords])


_CONVERT: dict[str, Callable[[StateDict], Conversion]] = {
    keymap.TIMM: timm_to_encoder,
    keymap.HUGGING_FACE: hf_to_encoder,
    keymap.DINO: dino_to_encoder,
    keymap.AIM: aim_to_encoder,
    keymap.RELEASE_CLASSIFIER: release_to_finetuned,
    keymap.RELEASE: _encoder_of_release,
}

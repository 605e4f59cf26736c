"""Loading an encoder into a task model: completely, or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from .files import CheckpointError, StateDict, read_state_dict
from .keymap import describe
from .position import Grid, fit_position_embedding, noted_grid

#: What a model may have and a checkpoint not; it stays as initialised.
MAY_BE_MISSING = {
    "final norm": r"ln[12]\.",
    "relative position table": r"(?:.+\.)?(?:rel_pos|relative_position)",
}
#: What an encoder may have and the model not.
MAY_BE_UNUSED = {
    "final norm": r"ln[12]\.",
    "class token, of a model with with_cls_token=False": r"cls_token$",
    "mask token, of masked image modelling": r"mask_token$",
}
#: What may lie beside the encoder in a checkpoint of a whole model.
BESIDE_ENCODER = r"neck\.|data_preprocessor\.|\w*head\.|momentum_encoder\.|student\."
_SHOWN = 8


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        path: The file.
        prefix: What preceded the encoder's keys in it.
        loaded: Keys of the model that were loaded.
        as_initialised: Keys of the model that the file does not have.
        unused: Keys of the file that the model does not have.
        notes: Anything that was adapted.
    """

    path: str
    prefix: str
    loaded: tuple[str, ...]
    as_initialised: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.as_initialised)
        return (
            f"Loaded {len(self.loaded)} of {total} encoder tensors from {self.path} "
            f"(prefix {self.prefix!r}). Left as initialised: "
            f"{shown(self.as_initialised)}. Not used: {shown(self.unused)}."
            + "".join(f" {note}." for note in self.notes)
        )


def load_encoder(
    module: nn.Module,
    path: str | Path,
    prefix: str | None = None,
    grid: Grid | None = None,
) -> LoadReport:
    """Loads an encoder into a ViT, reports it to the log, or stops.

    MMEngine's own ``Pretrained`` loads what fits and logs the rest, so that a wrong
    prefix trains from scratch in silence.

    Args:
        module: A ``VisionTransformer`` of mmpretrain or :class:`SAIMViT`.
        path: A bare encoder, or a checkpoint of a model with the encoder in
            ``backbone``, such as a SAIM pretraining checkpoint. From the latter a model
            with a final norm gets the decoder's norm, from which the release starts
            fine-tuning.
        prefix: What precedes the encoder's keys; by default found.
        grid: Rows and columns of the patches that the file was trained with; by default
            what the file or its values say, or a square.

    Returns:
        What was loaded.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file, its layout, the prefix, the keys or the shapes
            are wrong.
    """
    state = read_state_dict(path)
    prefix = _resolve_prefix(state, prefix, path)
    encoder = {
        key.removeprefix(prefix): tensor
        for key, tensor in state.items()
        if key.startswith(prefix)
    }
    own = module.state_dict()
    notes = _take_decoder_norm(encoder, state, own)
    missing, unused = _compare(encoder, own, path)
    beside = [key for key in state if not key.startswith(prefix)]
    _refuse(path, "is not part of an encoder", not_allowed(beside, [BESIDE_ENCODER]))
    _check_shapes(encoder, own, path)
    _check_grid(path, grid, len(encoder["pos_embed"][0]))
    known = grid or noted_grid(getattr(state, "_metadata", None), prefix)
    notes += _fit_positions(module, encoder, known, own["pos_embed"])
    module.load_state_dict({k: encoder[k] for k in own if k in encoder}, strict=False)
    report = LoadReport(
        path=str(path),
        prefix=prefix,
        loaded=tuple(key for key in own if key in encoder),
        as_initialised=missing,
        unused=unused + tuple(beside),
        notes=notes,
    )
    print_log(str(report), logger="current")
    return report


def pretrained_config(
    init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
) -> dict[str, Any] | None:
    """The ``Pretrained`` entry of an ``init_cfg``, if it has one.

    Raises:
        CheckpointError: If the entry names no checkpoint.
    """
    configs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
    for config in configs:
        if config.get("type") not in ("Pretrained", PretrainedInit):
            continue
        if not config.get("checkpoint"):
            raise CheckpointError(
                f"init_cfg={config} names no checkpoint; set its checkpoint to the "
                "encoder's file, or init_cfg=None to train from scratch."
            )
        return config
    return None


def _resolve_prefix(
    state: Mapping[str, Tensor], prefix: str | None, path: str | Path
) -> str:
    """The prefix, checked if it was given and found if not."""
    candidates: tuple[str, ...] = ("", "backbone.")
    if prefix:
        candidates = (prefix if prefix.endswith(".") else f"{prefix}.",)
    for candidate in candidates:
        if any(key.startswith(f"{candidate}layers.0.ln1.") for key in state):
            return candidate
    asked = f"prefix={prefix!r}" if prefix else "no prefix or 'backbone.'"
    raise CheckpointError(
        f"{path}: no encoder with {asked}. {describe(state)} Its keys: {shown(state)}."
    )


def _take_decoder_norm(
    encoder: StateDict, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Adds the decoder's norm as ``ln1`` where the model has one and the file not."""
    if "ln1.weight" not in own or "ln1.weight" in encoder:
        return ()
    if "neck.norm.weight" not in state:
        return ()
    for kind in ("weight", "bias"):
        encoder[f"ln1.{kind}"] = state[f"neck.norm.{kind}"]
    return ("The final norm 'ln1' starts from the decoder's 'neck.norm'",)


def _compare(
    encoder: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys that only the model has, and only the file; refuses those not allowed."""
    missing = tuple(key for key in own if key not in encoder)
    unused = tuple(key for key in encoder if key not in own)
    _refuse(
        path,
        "is missing; the model may have more layers, a class token or another option "
        "than the checkpoint",
        not_allowed(missing, MAY_BE_MISSING.values()),
    )
    _refuse(
        path,
        "has no place in the model; the model may have fewer layers or another option "
        "than the checkpoint",
        not_allowed(unused, MAY_BE_UNUSED.values()),
    )
    return missing, unused


def _check_shapes(
    encoder: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path
) -> None:
    """Refuses another width, patch size, ...; the grid may differ."""
    for key, tensor in encoder.items():
        if key not in own:
            continue
        found, wanted = tuple(tensor.shape), tuple(own[key].shape)
        if key == "pos_embed":
            found, wanted = (found[0], found[2]), (wanted[0], wanted[2])
        if found != wanted:
            raise CheckpointError(
                f"{path}: {key!r} has shape {tuple(tensor.shape)} and the model's "
                f"{tuple(own[key].shape)}; the checkpoint has {_sizes(encoder)}, the "
                f"model {_sizes(own)}. Set the backbone's arch and patch_size, or use "
                "the checkpoint that fits."
            )


def _check_grid(path: str | Path, grid: Grid | None, rows: int) -> None:
    if grid is not None and rows - math.prod(grid) not in (0, 1):
        raise CheckpointError(
            f"{path}: grid={tuple(grid)} has {math.prod(grid)} patches, and the "
            f"checkpoint's pos_embed {rows} rows, one of them that of a class token if "
            "there is one; give rows and columns of its patches."
        )


def _fit_positions(
    module: nn.Module, encoder: StateDict, known: Grid | None, own: Tensor
) -> tuple[str, ...]:
    """Fits the position embedding; mmpretrain's own ViT takes any for square."""
    before = encoder["pos_embed"]
    encoder["pos_embed"] = fit_position_embedding(
        encoder,
        "",
        tuple(module.patch_resolution),  # type: ignore[arg-type]
        module.num_extra_tokens,  # type: ignore[arg-type]
        module.interpolate_mode,  # type: ignore[arg-type]
        known,
        same_model=False,
    )
    if before.shape == own.shape:
        return ()
    return (f"Position embedding {tuple(before.shape)} fitted to {tuple(own.shape)}",)


def _sizes(encoder: Mapping[str, Tensor]) -> str:
    width, channels, *patch = encoder["patch_embed.projection.weight"].shape
    return f"width {width}, patch size {tuple(patch)} and {channels} image channels"


def not_allowed(keys: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The keys that no regular expression matches from their start."""
    pattern = re.compile("|".join(allowed))
    return [key for key in keys if not pattern.match(key)]


def _refuse(path: str | Path, reason: str, keys: Collection[str]) -> None:
    if keys:
        raise CheckpointError(f"{path}: {shown(keys)} {reason}.")


def shown(keys: Collection[str]) -> str:
    """The first few keys, and how many there are."""
    if not keys:
        return "nothing"
    first = ", ".join(list(keys)[:_SHOWN])
    return first if len(keys) <= _SHOWN else f"{first}, ... ({len(keys)} in all)"

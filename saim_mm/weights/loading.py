"""Loading an encoder into a task model: completely, or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from .channels import ChannelFit, fit_channels
from .files import CheckpointError, StateDict, read_state_dict, under
from .keymap import describe, has_narrow_decoder
from .position import Grid, fit_position_embedding, noted_grid

#: What a model may have and a checkpoint not: final norm, relative position table. It
#: stays as initialised.
MAY_BE_MISSING = r"ln[12]\.|(?:.+\.)?(?:rel_pos|relative_position)"
#: What an encoder may have and the model not: final norm, class token (where
#: with_cls_token=False), mask token.
MAY_BE_UNUSED = r"ln[12]\.|cls_token$|mask_token$"
#: What may lie beside the encoder in a checkpoint of a whole model.
BESIDE_ENCODER = r"neck\.|data_preprocessor\.|\w*head\.|momentum_encoder\.|student\."
_OTHER_MODEL = "or another option than the checkpoint"
_MISSING = f"is missing; the model may have more layers, a class token {_OTHER_MODEL}"
_UNUSED = f"has no place in the model; the model may have fewer layers {_OTHER_MODEL}"
_KERNEL = "patch_embed.projection.weight"
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
    channels: ChannelFit | None = None,
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
        channels: What becomes of the patch embedding of a checkpoint for images of
            another number of channels: ``repeat``, ``mean`` or ``random``, see
            :func:`saim_mm.weights.channels.fit_channels`. By default such a checkpoint
            is refused.

    Returns:
        What was loaded.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file, its layout, the prefix, the keys or the shapes
            are wrong.
        ValueError: If ``channels`` is unknown.
    """
    state = read_state_dict(path)
    return load_encoder_state(module, state, path, prefix, grid, channels)


def load_encoder_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path,
    prefix: str | None = None,
    grid: Grid | None = None,
    channels: ChannelFit | None = None,
) -> LoadReport:
    """As :func:`load_encoder`, of what was read from ``path``."""
    prefix = _resolve_prefix(state, prefix, path)
    encoder = under(state, prefix)
    own = module.state_dict()
    notes = _take_decoder_norm(encoder, state, own)
    missing = tuple(key for key in own if key not in encoder)
    unused = tuple(key for key in encoder if key not in own)
    beside = tuple(key for key in state if not key.startswith(prefix))
    _refuse(path, _MISSING, missing, MAY_BE_MISSING)
    _refuse(path, _UNUSED, unused, MAY_BE_UNUSED)
    _refuse(path, "is not part of an encoder", beside, BESIDE_ENCODER)
    if channels is not None:
        notes += _fit_channels(encoder, own, channels)
    _check_shapes(encoder, own, path)
    known = noted_grid(getattr(state, "_metadata", None), prefix)
    notes += _fit_positions(module, encoder, path, grid, known)
    used = {key: encoder[key] for key in own if key in encoder}
    module.load_state_dict(used, strict=False)
    report = LoadReport(str(path), prefix, tuple(used), missing, unused + beside, notes)
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
    kinds = ("Pretrained", PretrainedInit)
    config = next((config for config in configs if config.get("type") in kinds), None)
    if config is not None and not config.get("checkpoint"):
        raise CheckpointError(
            f"init_cfg={config} names no checkpoint; set its checkpoint to the "
            "encoder's file, or init_cfg=None to train from scratch."
        )
    return config


def _resolve_prefix(
    state: Mapping[str, Tensor], prefix: str | None, path: str | Path
) -> str:
    """The prefix, checked if it was given and found if not."""
    given = (f"{prefix.removesuffix('.')}.",) if prefix else None
    for candidate in given or ("", "backbone."):
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
    needed = "ln1.weight" in own and "ln1.weight" not in encoder
    if not needed or "neck.norm.weight" not in state or has_narrow_decoder(state):
        return ()
    for kind in ("weight", "bias"):
        encoder[f"ln1.{kind}"] = state[f"neck.norm.{kind}"]
    return ("The final norm 'ln1' starts from the decoder's 'neck.norm'",)


def _fit_channels(
    encoder: StateDict, own: Mapping[str, Tensor], fit: ChannelFit
) -> tuple[str, ...]:
    """Fits the patch embedding; what else is of another shape is refused after it."""
    if fit not in get_args(ChannelFit):
        raise ValueError(
            f"channels={fit!r} is unknown; choose one of {get_args(ChannelFit)}, or "
            "None to refuse an encoder of other channels."
        )
    kernel, initial = encoder[_KERNEL], own[_KERNEL]
    others_fit = kernel[:, :1].shape == initial[:, :1].shape
    if kernel.shape == initial.shape or not others_fit:
        return ()
    encoder[_KERNEL] = fit_channels(kernel, initial, fit)
    before, after = kernel.shape[1], initial.shape[1]
    return (f"Patch embedding of {before} channels fitted to {after} by {fit!r}",)


def _refuse(path: str | Path, reason: str, keys: Collection[str], allowed: str) -> None:
    """Stops at keys that one side has alone, but for those that are allowed to it."""
    if wrong := only_in(keys, (), allowed):
        raise CheckpointError(f"{path}: {shown(wrong)} {reason}.")


def _check_shapes(
    encoder: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path
) -> None:
    """Refuses another width, patch size, ...; the grid may differ."""
    for key, tensor in encoder.items():
        step = 2 if key == "pos_embed" else 1
        if key in own and tensor.shape[::step] != own[key].shape[::step]:
            raise CheckpointError(
                f"{path}: {key!r} has shape {tuple(tensor.shape)} and the model's "
                f"{tuple(own[key].shape)}; the checkpoint has {_sizes(encoder)}, the "
                f"model {_sizes(own)}. Set the backbone's arch and patch_size, or use "
                "the checkpoint that fits; for other image channels, init_cfg.channels "
                "says how ('repeat', 'mean' or 'random')."
            )


def _fit_positions(
    module: Any,
    encoder: StateDict,
    path: str | Path,
    given: Grid | None,
    known: Grid | None,
) -> tuple[str, ...]:
    """Fits the position embedding; mmpretrain's own ViT takes any for square."""
    before, grid = encoder["pos_embed"], tuple(module.patch_resolution)
    rows = before.shape[1]
    fitting = (0, 1, module.num_extra_tokens)
    if given is not None and rows - math.prod(given) not in fitting:
        raise CheckpointError(
            f"{path}: grid={tuple(given)} has {math.prod(given)} patches, and the "
            f"checkpoint's pos_embed {rows} rows, with that of a class token if there "
            "is one; give rows and columns of its patches."
        )
    extra, mode = module.num_extra_tokens, module.interpolate_mode
    after = encoder["pos_embed"] = fit_position_embedding(
        encoder, "", grid, extra, mode, given or known, same_model=False
    )
    if before.shape == after.shape:
        return ()
    return (f"Position embedding {tuple(before.shape)} fitted to {tuple(after.shape)}",)


def _sizes(encoder: Mapping[str, Tensor]) -> str:
    width, channels, *patch = encoder[_KERNEL].shape
    return f"width {width}, patch size {tuple(patch)} and {channels} image channels"


def only_in(one: Iterable[str], other: Container[str], allowed: str) -> list[str]:
    """The keys of one side alone that a pattern does not match from their start."""
    return [key for key in one if key not in other and not re.match(allowed, key)]


def shown(keys: Collection[str]) -> str:
    """The first few keys, and how many there are."""
    if not keys:
        return "nothing"
    first = ", ".join(list(keys)[:_SHOWN])
    return first if len(keys) <= _SHOWN else f"{first}, ... ({len(keys)} in all)"

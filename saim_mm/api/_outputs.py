"""What a backbone gives: it is built without weights, run small, and looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.model_state import random_state_kept

#: Sides of images that are tried, after the one that the backbone was built for.
_SIDES = (256, 224)
#: Whether in training -> what it gives, and the images.
_Given = dict[bool, tuple[Any, Tensor]]


@dataclass(frozen=True)
class Outputs:
    """The outputs of a backbone: channels of each, pixels to a step of each map.

    The stride of a vector is ``None``; grouped ones are one tuple within a tuple.
    """

    channels: tuple[int, ...]
    strides: tuple[int | None, ...]
    grouped: bool = False


def outputs_of(backbone: ConfigDict, in_channels: int) -> Outputs:
    """Builds a backbone, runs it on noise in both modes, and reads off the shapes.

    Weights that it names are not read. Names are looked up in the default scope.

    Raises:
        ValueError: If it cannot be built or run, or what it gives is not a tuple of
            maps (B, C, h, w) or vectors (B, C), the same in training and evaluation.
    """
    name = backbone.get("type")
    size = backbone.get("img_size")
    built_for = max(size) if isinstance(size, (list, tuple)) else size
    sides = [side for side in (built_for, *_SIDES) if side]
    with random_state_kept():
        given = _first_to_run(backbone, in_channels, sides)
    train, evaluation = (_read(name, *given[mode]) for mode in (True, False))
    if train != evaluation:
        raise ValueError(
            f"{name} gives {_shown(train)} in training and {_shown(evaluation)} in "
            "evaluation, which its head relies on."
        )
    return train


def without_weights(config: Any) -> Any:
    """A copy of a config in which no part names a checkpoint to start from."""
    if isinstance(config, dict):
        kept = {
            key: without_weights(value)
            for key, value in config.items()
            if not (key == "init_cfg" and "Pretrained" in str(value))
        }
        if kept.get("pretrained"):
            kept["pretrained"] = False if kept["pretrained"] is True else None
        return ConfigDict(kept)
    if isinstance(config, (list, tuple)):
        return type(config)(without_weights(value) for value in config)
    return config


def short(error: Exception) -> str:
    """The first line of an error, with its class."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:400]}"


def _first_to_run(backbone: ConfigDict, channels: int, sides: list[int]) -> _Given:
    """On ``meta``, where nothing is computed, or else wherever it can be run."""
    for built, run in (("meta", "meta"), ("cpu", "meta"), ("cpu", "cpu")):
        try:
            return _run(backbone, channels, sides, built, run)
        except Exception as error:  # whatever a foreign class raises
            last = error
    raise ValueError(f"{backbone.type} cannot be run: {short(last)}") from last


def _run(
    backbone: ConfigDict, channels: int, sides: list[int], built: str, run: str
) -> _Given:
    with torch.device(built):
        model = revert_sync_batchnorm(MODELS.build(without_weights(backbone)))
    model.to(run)
    for side in sides:
        with torch.device(run), torch.no_grad():
            images = torch.rand(2, channels, side, side)
            given = {}
            try:
                for mode in (True, False):
                    model.train(mode)  # OpenMMLab's backbones return nothing
                    given[mode] = (model(images), images)
                return given
            except Exception as error:  # another size may do
                last = error
    raise last


def _read(name: Any, outs: Any, images: Tensor) -> Outputs:
    if not isinstance(outs, (list, tuple)) or not outs:
        raise ValueError(f"{name} gives a {type(outs).__name__}, not a tuple of maps.")
    grouped = len(outs) == 1 and isinstance(outs[0], (list, tuple))
    outs = outs[0] if grouped else outs
    for out in outs:
        if not isinstance(out, Tensor) or out.ndim not in (2, 4):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"{name} gives {shape} beside or instead of maps.")
        if len(out) != len(images):
            raise ValueError(
                f"{name} gives {len(out)} outputs of {len(images)} images."
            )
        if out is images:
            raise ValueError(f"{name} hands on the image itself, for its neck to read.")
    return Outputs(
        channels=tuple(out.shape[1] for out in outs),
        strides=tuple(
            _stride(images.shape[-1], out.shape[-1]) if out.ndim == 4 else None
            for out in outs
        ),
        grouped=grouped,
    )


def _stride(pixels: int, steps: int) -> int:
    """Pixels to a step; a power of two where padding or rounding blurs it."""
    if pixels % steps == 0:
        return pixels // steps
    return 2 ** round(math.log2(pixels / steps))


def _shown(outputs: Outputs) -> str:
    return f"channels {outputs.channels} at strides {outputs.strides}"

"""Folders of a Hugging Face hub, of transformers or timm: weights, config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import CheckpointError

#: Names of the weights in such a folder; the first that is there counts, averaged ones,
#: as NEPA's authors judge, before others.
_WEIGHTS = ("pytorch_model_ema.bin", "model.safetensors", "pytorch_model.bin")


def find_weights(path: Path) -> Path:
    """The weights in a folder; a file is returned as it is.

    Raises:
        FileNotFoundError: If the folder has none.
    """
    if not path.is_dir():
        return path
    for name in _WEIGHTS:
        if (path / name).is_file():
            return path / name
    if (path / "encoder.pth").is_file():
        raise FileNotFoundError(
            f"{path}: is the folder of a run; give its {path / 'encoder.pth'}."
        )
    raise FileNotFoundError(
        f"{path}: this folder has no weights, {' or '.join(_WEIGHTS)}; give a "
        "checkpoint file, or a folder of save_pretrained (in one piece)."
    )


def settings_beside(weights: Path, eps: float) -> dict[str, Any]:
    """What the files beside the weights say of the encoder, as a config of ours would.

    ``eps`` is that of the layer norms where nothing else is said.

    Returns:
        ``model.backbone`` with ``norm_cfg``, ``arch.num_heads`` and ``img_size`` and
        ``data_preprocessor``, each where it is known.

    Raises:
        CheckpointError: If a file is damaged or the model no plain ViT.
    """
    config = _read_json(weights.with_name("config.json"))
    is_nepa = config.get("model_type") == "vit_nepa"  # whose own config is read, too
    if config.get("hidden_act", "gelu") != "gelu" and not is_nepa:
        raise CheckpointError(
            f"{weights}: hidden_act={config['hidden_act']!r}; only 'gelu' is known."
        )
    norm = dict(type="LN", eps=config.get("layer_norm_eps", eps))
    backbone: dict[str, Any] = dict(norm_cfg=norm)
    if "num_attention_heads" in config:
        backbone["arch"] = dict(num_heads=config["num_attention_heads"])
    if "image_size" in config:
        size = config["image_size"]  # of squares, or rows and columns
        backbone["img_size"] = (size, size) if isinstance(size, int) else tuple(size)
    settings: dict[str, Any] = dict(model=dict(backbone=backbone))
    given = _read_json(weights.with_name("preprocessor_config.json"))
    timm = config.get("pretrained_cfg", config)
    mean = given.get("image_mean", timm.get("mean"))
    std = given.get("image_std", timm.get("std"))
    if mean and std:  # from 0 to 1; ours are from 0 to 255
        mean, std = ([255 * value for value in values] for values in (mean, std))
        settings["data_preprocessor"] = dict(mean=mean, std=std, to_rgb=True)
    return settings


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < float("inf")


def _are_means(values: Any) -> bool:
    return (
        values is None
        or isinstance(values, list)
        and all(v == 0 or _is_number(v) for v in values)
    )


def _are_deviations(values: Any) -> bool:
    return values is None or isinstance(values, list) and all(map(_is_number, values))


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_size(value: Any) -> bool:
    return _is_side(value) or (
        isinstance(value, list) and len(value) == 2 and all(map(_is_side, value))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_MEANS = (_are_means, "a list of numbers from 0")
_DEVIATIONS = (_are_deviations, "a list of positive numbers")
#: What is read of such files: whether a value will do, and which do.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "layer_norm_eps": (_is_number, "a positive number"),
    "num_attention_heads": (_is_side, "a positive integer"),
    "image_size": (_is_size, "a positive integer, or rows and columns"),
    "pretrained_cfg": (_is_object, "an object"),
    **dict.fromkeys(("image_mean", "mean"), _MEANS),
    **dict.fromkeys(("image_std", "std"), _DEVIATIONS),
}


def _check(content: dict[str, Any], path: Path) -> None:
    for name, (fits, wanted) in _FIELDS.items():
        if name in content and not fits(content[name]):
            raise CheckpointError(f"{path}: {name}={content[name]!r} must be {wanted}.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no JSON ({error}).") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, no object.")
    _check(content, path)
    _check(content.get("pretrained_cfg", {}), path)  # timm's
    return content

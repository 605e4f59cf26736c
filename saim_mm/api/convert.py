"""Checkpoints from one format to another, certified."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..parity.certificate import Certificate
from ..parity.convert_files import (
    convert_aim_to_encoder,
    convert_dino_to_encoder,
    convert_encoder_to_hf,
    convert_encoder_to_timm,
    convert_finetuned_to_mmpretrain,
    convert_hf_to_encoder,
    convert_nepa_to_encoder,
    convert_release_to_saim,
    convert_saim_to_encoder,
    convert_saim_to_release,
)
from ..utils.atomic_file import check_new
from ..weights.blur import Smoothing

_timm_to_encoder = functools.partial(convert_encoder_to_timm, reverse=True)
_to_release = functools.partial(convert_finetuned_to_mmpretrain, reverse=True)
#: (source, target) -> the conversion.
CONVERSIONS: dict[tuple[str, str], Callable[..., Certificate]] = {
    ("saim", "encoder"): convert_saim_to_encoder,
    ("saim", "release"): convert_saim_to_release,
    ("release", "saim"): convert_release_to_saim,
    ("encoder", "timm"): convert_encoder_to_timm,
    ("timm", "encoder"): _timm_to_encoder,
    ("encoder", "hf"): convert_encoder_to_hf,
    ("hf", "encoder"): convert_hf_to_encoder,
    ("dino", "encoder"): convert_dino_to_encoder,
    ("aim", "encoder"): convert_aim_to_encoder,
    ("nepa", "encoder"): convert_nepa_to_encoder,
    ("release-classifier", "classifier"): convert_finetuned_to_mmpretrain,
    ("classifier", "release-classifier"): _to_release,
}


def convert(
    src: str | Path,
    dst: str | Path,
    source: str = "saim",
    target: str = "encoder",
    *,
    num_heads: int | None = None,
    final_norm: bool = False,
    prefix: str = "",
    smoothing: Smoothing | None = (9, 1.0),
    coupled: bool = False,
    decoder_depth: int | None = None,
) -> Certificate:
    """Converts a checkpoint; the result is written only if it certifies.

    Args:
        src: What to convert.
        dst: Where the result goes.
        source: Format of ``src``: ``saim`` (our pretraining checkpoint), ``encoder``
            (a bare one), ``release`` (the authors'), ``timm``, ``hf`` (a folder),
            ``dino``, ``aim`` and ``nepa`` (a folder), as their authors released them,
            ``classifier`` (mmpretrain's) or ``release-classifier``.
        target: Format of ``dst``; :data:`CONVERSIONS` has the pairs.
        num_heads: Attention heads; by default width / 64, or 128 for AIM.
        final_norm: From ``saim`` to ``encoder``: keep the decoder's norm as final norm.
        prefix: From ``saim`` to ``encoder``: what precedes every key.
        smoothing: Between ``saim`` and ``release``: kernel size and sigma of the
            target's blur, if it is blurred.
        coupled: From ``saim`` to ``release``: the decoder runs through the encoder.
        decoder_depth: From ``release`` to ``saim``: layers of a shared decoder.

    Returns:
        The certificate; nothing was written if it did not pass.

    Raises:
        ValueError: For a pair without conversion, an option that the conversion does
            not have, or a source that is not what it should be.
        OSError: For files, and if something is at ``dst`` already.
        ImportError: If the library to compare with is not installed.
    """
    options: dict[str, Any] = dict(
        num_heads=num_heads,
        final_norm=final_norm,
        prefix=prefix,
        smoothing=smoothing,
        coupled=coupled,
        decoder_depth=decoder_depth,
    )
    if (source, target) not in CONVERSIONS:
        pairs = ", ".join(f"{a} to {b}" for a, b in CONVERSIONS)
        raise ValueError(f"source={source!r}, target={target!r}: there are {pairs}.")
    conversion = CONVERSIONS[source, target]
    known = inspect.signature(conversion).parameters
    used = {name: options.pop(name) for name in known if name in options}
    refuse_given(
        options, convert, f"does not matter from {source} to {target}; drop it"
    )
    if Path(src).resolve() == Path(dst).resolve():
        raise ValueError(f"{dst}: would be written over itself; give another name.")
    check_new(Path(dst), is_folder=target == "hf")
    return conversion(Path(src), Path(dst), **used)


def refuse_given(
    options: Mapping[str, object], verb: Callable[..., Any], reason: str
) -> None:
    """Refuses options of a verb that do not matter, if they are given.

    Raises:
        ValueError: For the first that is not as it is by default.
    """
    defaults = inspect.signature(verb).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise ValueError(f"{name}={value!r} {reason}.")

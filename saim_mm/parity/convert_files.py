"""Checkpoints from file to file: converted, certified, and written only then.

Every function reads ``src``, writes ``dst`` if the certificate passed, and returns the
certificate in any case. Options that :mod:`saim_mm.weights` has too mean the same;
``num_heads`` is by default the width / 64. They raise ``CheckpointError``, a
``ValueError``, if the source is not what it should be, ``OSError`` for files, and
``ImportError`` if the library to compare with is not installed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from .. import weights
from ..utils.atomic_file import check_new, write_json
from ..weights import StateDict, read_state_dict, write_state_dict
from ..weights.arch import Arch, infer_arch
from ..weights.blur import Smoothing
from ..weights.files import weights_of
from ..weights.hub_folder import find_weights
from ..weights.position import with_note
from ..weights.rivals import NEPAConfig
from . import certificate
from .certificate import Certificate

#: What transformers calls the weights in its folder.
_HF_WEIGHTS = "model.safetensors"


def convert_release_to_saim(
    src: Path,
    dst: Path,
    smoothing: Smoothing | None = (9, 1.0),
    decoder_depth: int | None = None,
    num_heads: int | None = None,
) -> Certificate:
    """A pretraining checkpoint of the authors' release -> ours.

    The release's blur is kept beside the weights, so that the way back is exact.
    """
    release = read_state_dict(src)
    conversion = weights.release_to_saim(release, smoothing, decoder_depth)
    ours = conversion.state_dict
    found = certificate.certify_pretraining(
        conversion, release, ours, smoothing, num_heads
    )
    meta = {"gaussian_blur": release.get("gaussian_blur.weight")}
    return write_certified(dst, found, meta=meta)


def convert_saim_to_release(
    src: Path,
    dst: Path,
    smoothing: Smoothing | None = (9, 1.0),
    coupled: bool = False,
    num_heads: int | None = None,
) -> Certificate:
    """A pretraining checkpoint of ours -> the authors' release."""
    content = weights.read_checkpoint(src)
    ours = weights_of(content, src)
    blur = content.get("meta", {}).get("gaussian_blur")
    conversion = weights.saim_to_release(ours, smoothing, blur, coupled)
    found = certificate.certify_pretraining(
        conversion, conversion.state_dict, ours, smoothing, num_heads
    )
    return write_certified(dst, found, "model")


def convert_saim_to_encoder(
    src: Path,
    dst: Path,
    final_norm: bool = False,
    prefix: str = "",
    num_heads: int | None = None,
) -> Certificate:
    """A pretraining checkpoint of ours -> its encoder, .pth or .safetensors."""
    pretrained = read_state_dict(src)
    conversion = weights.saim_to_encoder(pretrained, final_norm, prefix)
    found = certificate.certify_encoder(conversion, pretrained, prefix, num_heads)
    return write_certified(dst, found)


def convert_encoder_to_timm(
    src: Path, dst: Path, reverse: bool = False, num_heads: int | None = None
) -> Certificate:
    """A bare encoder -> timm's names, or back."""
    source = read_state_dict(src)
    convert = weights.timm_to_encoder if reverse else weights.encoder_to_timm
    conversion = convert(source)
    sides = (source, conversion.state_dict)
    encoder, timm = reversed(sides) if reverse else sides
    found = certificate.certify_timm(conversion, encoder, timm, num_heads)
    return write_certified(dst, found, "state_dict" if reverse else None)


def convert_finetuned_to_mmpretrain(
    src: Path, dst: Path, reverse: bool = False, num_heads: int | None = None
) -> Certificate:
    """The release's classifier -> mmpretrain's, or back."""
    source = read_state_dict(src)
    convert = weights.finetuned_to_release if reverse else weights.release_to_finetuned
    conversion = convert(source)
    sides = (source, conversion.state_dict)
    release, ours = reversed(sides) if reverse else sides
    found = certificate.certify_classifier(conversion, release, ours, num_heads)
    return write_certified(dst, found, "model" if reverse else "state_dict")


def convert_encoder_to_hf(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """A bare encoder -> a folder for transformers' ``ViTModel.from_pretrained``."""
    encoder = read_state_dict(src)
    conversion = weights.encoder_to_hf(encoder)
    arch = infer_arch(encoder, num_heads=num_heads)
    with tempfile.TemporaryDirectory() as folder:
        _write_hf_folder(Path(folder), conversion.state_dict, arch)
        found = certificate.certify_hf(conversion, encoder, folder)
    if found.passed:
        _write_hf_folder(dst, conversion.state_dict, arch)
    return found


def convert_hf_to_encoder(src: Path, dst: Path) -> Certificate:
    """A folder that ``ViTModel.from_pretrained`` reads -> a bare encoder."""
    conversion = weights.hf_to_encoder(read_state_dict(src / _HF_WEIGHTS))
    found = certificate.certify_hf(conversion, conversion.state_dict, src)
    return write_certified(dst, found, grid=found.arch.grid)


def convert_dino_to_encoder(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """DINO's checkpoint, of which the teacher counts, or backbone -> a bare encoder."""
    state = read_state_dict(src)
    conversion = weights.dino_to_encoder(state)
    encoder = conversion.state_dict
    found = certificate.certify_timm(conversion, encoder, state, num_heads)
    return write_certified(dst, found)


def convert_aim_to_encoder(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """AIM's backbone, of PyTorch, -> a bare encoder; heads by default width / 128."""
    state = read_state_dict(src)
    conversion = weights.aim_to_encoder(state)
    return write_certified(dst, certificate.certify_aim(conversion, state, num_heads))


def convert_nepa_to_encoder(src: Path, dst: Path) -> Certificate:
    """NEPA's folder, or weights beside their config.json -> a bare ``RotaryViT``.

    Of a folder the averaged weights are taken, if it has them: all of the authors'
    figures are of those.
    """
    file = find_weights(src)
    settings = NEPAConfig.beside(file)
    state = read_state_dict(file)
    conversion = weights.nepa_to_encoder(state, settings)
    return write_certified(dst, certificate.certify_nepa(conversion, state, settings))


def write_certified(
    dst: Path,
    found: Certificate,
    key: str | None = "state_dict",
    grid: tuple[int, int] | None = None,
    meta: dict[str, Any] | None = None,
) -> Certificate:
    """Writes what was converted if it passed."""
    state = found.conversion.state_dict
    if found.passed:
        write_state_dict(dst, with_note(state, grid) if grid else state, key, meta)
    return found


def _write_hf_folder(folder: Path, state: StateDict, arch: Arch) -> None:
    """Writes weights and config.json, so that from_pretrained needs nothing else."""
    config = dict(
        model_type="vit",
        architectures=["ViTModel"],
        hidden_size=arch.embed_dims,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_heads,
        intermediate_size=arch.feedforward_channels,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # transformers' own default is 1e-12
        image_size=_side(arch.img_size),
        patch_size=_side(arch.patch_size),
        num_channels=arch.in_channels,
        qkv_bias=True,
    )
    write_state_dict(folder / _HF_WEIGHTS, state)
    write_json(folder / "config.json", config, indent=2)


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def check_passed(found: Certificate, dst: Path) -> None:
    """Stops a command whose conversion was not written, by a ``ValueError``."""
    if not found.passed:
        raise ValueError(f"nothing written to {dst}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``src``, ``dst`` and ``--num-heads``."""
    add = parser.add_argument
    add("src", type=Path, help="what to convert")
    add("dst", type=_new_place, help="where the result is written; nothing is there")
    add("--num-heads", type=int, help="attention heads; by default width / 64")


def _new_place(text: str) -> Path:
    check_new(Path(text), is_folder=Path(text).is_dir())
    return Path(text)


def add_smoothing(parser: argparse.ArgumentParser) -> None:
    """Adds the blur of the target, which the release keeps as a weight."""
    add = parser.add_argument
    add("--kernel-size", type=int, default=9, help="taps of the target's blur")
    add("--sigma", type=float, default=1.0, help="its deviation, in pixels")
    add("--no-smoothing", action="store_true", help="the target is not blurred")


def smoothing_of(args: argparse.Namespace) -> Smoothing | None:
    """What the arguments of :func:`add_smoothing` ask for."""
    return None if args.no_smoothing else (args.kernel_size, args.sigma)

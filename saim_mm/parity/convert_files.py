"""Checkpoints from file to file: converted, certified, and written only then.

Every function writes its result if the certificate passed, and returns the certificate
in any case. They raise ``CheckpointError``, a ``ValueError``, if the source is not what
it should be, ``OSError`` for files, and ``ImportError`` if the library to compare with
is not installed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..utils.atomic_file import write_json
from ..weights import (
    StateDict,
    encoder_to_hf,
    encoder_to_timm,
    finetuned_to_release,
    hf_to_encoder,
    read_checkpoint,
    read_state_dict,
    release_to_finetuned,
    release_to_saim,
    saim_to_encoder,
    saim_to_release,
    timm_to_encoder,
    write_state_dict,
)
from ..weights.arch import Arch, infer_arch
from ..weights.blur import Smoothing
from ..weights.files import weights_of
from ..weights.position import with_note
from .certificate import (
    Certificate,
    certify_classifier,
    certify_encoder,
    certify_hf,
    certify_pretraining,
    certify_timm,
)

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

    Args:
        src: The release's file.
        dst: Ours; it keeps the release's blur, so that the way back is exact.
        smoothing: Kernel size and sigma of the target's blur, if it is blurred.
        decoder_depth: As for :func:`saim_mm.weights.release_to_saim`.
        num_heads: Attention heads; by default width / 64.
    """
    release = read_state_dict(src)
    conversion = release_to_saim(release, smoothing, decoder_depth)
    ours = conversion.state_dict
    found = certify_pretraining(conversion, release, ours, smoothing, num_heads)
    if found.passed:
        meta = {"gaussian_blur": release.get("gaussian_blur.weight")}
        write_state_dict(dst, ours, meta=meta)
    return found


def convert_saim_to_release(
    src: Path,
    dst: Path,
    smoothing: Smoothing | None = (9, 1.0),
    coupled: bool = False,
    num_heads: int | None = None,
) -> Certificate:
    """A pretraining checkpoint of ours -> the authors' release.

    Args:
        src: Our file.
        dst: The release's.
        smoothing: Kernel size and sigma of the target's blur, if it is blurred.
        coupled: Whether the decoder runs through all of the encoder's layers.
        num_heads: Attention heads; by default width / 64.
    """
    content = read_checkpoint(src)
    ours = weights_of(content, src)
    blur = content.get("meta", {}).get("gaussian_blur")
    conversion = saim_to_release(ours, smoothing, blur, coupled)
    release = conversion.state_dict
    found = certify_pretraining(conversion, release, ours, smoothing, num_heads)
    if found.passed:
        write_state_dict(dst, release, "model")
    return found


def convert_saim_to_encoder(
    src: Path,
    dst: Path,
    final_norm: bool = False,
    prefix: str = "",
    num_heads: int | None = None,
) -> Certificate:
    """A pretraining checkpoint of ours -> its encoder.

    Args:
        src: Our file.
        dst: Ends with ``.pth`` or ``.safetensors``.
        final_norm: Keep the decoder's norm as final norm.
        prefix: What precedes every key of the result.
        num_heads: Attention heads; by default width / 64.
    """
    pretrained = read_state_dict(src)
    conversion = saim_to_encoder(pretrained, final_norm, prefix)
    found = certify_encoder(conversion, pretrained, prefix, num_heads)
    if found.passed:
        write_state_dict(dst, conversion.state_dict)
    return found


def convert_encoder_to_timm(
    src: Path, dst: Path, reverse: bool = False, num_heads: int | None = None
) -> Certificate:
    """A bare encoder -> timm's names, or back."""
    source = read_state_dict(src)
    conversion = (timm_to_encoder if reverse else encoder_to_timm)(source)
    result = conversion.state_dict
    encoder, timm = (result, source) if reverse else (source, result)
    found = certify_timm(conversion, encoder, timm, num_heads)
    if found.passed:
        write_state_dict(dst, result, "state_dict" if reverse else None)
    return found


def convert_finetuned_to_mmpretrain(
    src: Path, dst: Path, reverse: bool = False, num_heads: int | None = None
) -> Certificate:
    """The release's classifier -> mmpretrain's, or back."""
    source = read_state_dict(src)
    conversion = (finetuned_to_release if reverse else release_to_finetuned)(source)
    result = conversion.state_dict
    release, ours = (result, source) if reverse else (source, result)
    found = certify_classifier(conversion, release, ours, num_heads)
    if found.passed:
        write_state_dict(dst, result, "model" if reverse else "state_dict")
    return found


def convert_encoder_to_hf(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """A bare encoder -> a folder for transformers' ``ViTModel.from_pretrained``."""
    encoder = read_state_dict(src)
    conversion = encoder_to_hf(encoder)
    arch = infer_arch(encoder, num_heads=num_heads)
    with tempfile.TemporaryDirectory() as folder:
        _write_hf_folder(Path(folder), conversion.state_dict, arch)
        found = certify_hf(conversion, encoder, folder)
    if found.passed:
        _write_hf_folder(dst, conversion.state_dict, arch)
    return found


def convert_hf_to_encoder(src: Path, dst: Path) -> Certificate:
    """A folder that ``ViTModel.from_pretrained`` reads -> a bare encoder."""
    conversion = hf_to_encoder(read_state_dict(src / _HF_WEIGHTS))
    found = certify_hf(conversion, conversion.state_dict, src)
    if found.passed:
        write_state_dict(dst, with_note(conversion.state_dict, found.arch.grid))
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


def check_passed(certificate: Certificate, dst: Path) -> None:
    """Stops a command whose conversion was not written.

    Raises:
        ValueError: If the certificate did not pass.
    """
    if not certificate.passed:
        raise ValueError(f"nothing written to {dst}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``src``, ``dst`` and ``--num-heads``."""
    parser.add_argument("src", type=Path, help="what to convert")
    parser.add_argument("dst", type=Path, help="where the result is written")
    parser.add_argument(
        "--num-heads", type=int, help="attention heads; by default width / 64"
    )


def add_smoothing(parser: argparse.ArgumentParser) -> None:
    """Adds the blur of the target, which the release keeps as a weight."""
    parser.add_argument(
        "--kernel-size", type=int, default=9, help="taps of the target's blur"
    )
    parser.add_argument(
        "--sigma", type=float, default=1.0, help="its deviation, in pixels"
    )
    parser.add_argument(
        "--no-smoothing", action="store_true", help="the target is not blurred"
    )


def smoothing_of(args: argparse.Namespace) -> Smoothing | None:
    """What the arguments of :func:`add_smoothing` ask for."""
    return None if args.no_smoothing else (args.kernel_size, args.sigma)

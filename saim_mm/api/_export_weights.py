"""Weights in the names of others; the converters do it and certify it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..datasets.channel_preprocessor import are_colours
from ..evaluation.frozen_encoder import FrozenEncoder
from ..models import SAIMViT
from ..parity import convert_files
from ..parity.certificate import Certificate
from ..parity.export_graph import peculiarity
from ..utils.atomic_file import write_json
from ..weights import read_state_dict, write_state_dict
from ..weights.blur import Smoothing
from ..weights.keymap import has_narrow_decoder
from ._child import normalisation_of

#: Epsilon of the norms in timm's ViT and in what is written for transformers.
_EPS = 1e-6
#: Of ``transform``: share of the resized image's short edge that is kept.
CROP_RATIO = 224 / 256


def _facts(encoder: FrozenEncoder) -> dict[str, str]:
    """What the model card says of an input that no file normalises."""
    channels = encoder.backbone.patch_embed.projection.in_channels
    rows, columns = encoder.image_size
    order, units = "as stored in training", "as stored"
    if are_colours(channels, encoder.preprocessor):
        order = "RGB" if encoder.preprocessor._channel_conversion else "BGR"
        units = "0 to 255"
    numbers = normalisation_of(encoder.preprocessor)
    mean, std = (numbers[name] or "none" for name in ("mean", "std"))
    return dict(
        input=f"float32 (B, {channels}, {rows}, {columns}), {order}, normalised",
        normalisation=f"**not included**: subtract {mean}, divide by {std}, in the "
        f"units of the images ({units})",
        output=f"float32 (B, tokens, {encoder.embed_dims}), the class token first",
    )


def export_weights(
    encoder: FrozenEncoder, out: Path, kind: str, settings: Mapping[str, Any]
) -> tuple[dict[str, str], Certificate]:
    """Writes the weights, if they certify.

    Also returns what a user must know, for the model card.

    Raises:
        OSError: If they cannot be written.
        ValueError: If the encoder has no such layout, or the certificate fails.
    """
    heads = encoder.backbone.arch_settings["num_heads"]
    if kind == "official":
        found = _official(Path(encoder.source), out, settings, heads)
    else:
        _check_plain(encoder.backbone, kind)
        with tempfile.TemporaryDirectory() as folder:
            bare = Path(folder) / "encoder.pth"
            if kind == "hf" and _has_decoder_norm(encoder):
                taken = convert_files.convert_saim_to_encoder(
                    Path(encoder.source), bare, final_norm=True, num_heads=heads
                )
                convert_files.check_passed(taken, out)
            else:
                write_state_dict(bare, encoder.backbone.state_dict())
            if kind == "timm":
                found = convert_files.convert_encoder_to_timm(bare, out, False, heads)
            else:
                found = convert_files.convert_encoder_to_hf(bare, out, heads)
                if found.passed and (steps := _image_processor(encoder)):
                    write_json(out / "preprocessor_config.json", steps, indent=2)
    if not found.passed:
        raise ValueError(f"nothing written to {out}\n{found}")
    return _facts(encoder), found


def _image_processor(encoder: FrozenEncoder) -> dict[str, Any]:
    """What ``AutoImageProcessor`` is to do, as ``transform`` does.

    Where half a pixel decides about the centre, the two may round otherwise. Nothing
    for what transformers does not know: other than RGB, or without mean.
    """
    normal = encoder.preprocessor
    channels = encoder.backbone.patch_embed.projection.in_channels
    if channels != 3 or not normal._channel_conversion or not hasattr(normal, "mean"):
        return {}
    rows, columns = encoder.image_size
    mean, std = ((v / 255).flatten().tolist() for v in (normal.mean, normal.std))
    return dict(
        image_processor_type="CLIPImageProcessor",  # the one that crops
        do_convert_rgb=True,
        do_resize=True,
        size=dict(shortest_edge=round(max(rows, columns) / CROP_RATIO)),
        resample=3,  # bicubic
        do_center_crop=True,
        crop_size=dict(height=rows, width=columns),
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=mean,
        image_std=std,
    )


def _has_decoder_norm(encoder: FrozenEncoder) -> bool:
    """Whether it has no final norm, which ViTModel always applies, and SAIM's has."""
    if encoder.backbone.final_norm or not Path(encoder.source).is_file():
        return False
    state = read_state_dict(encoder.source)
    return "neck.norm.weight" in state and not has_narrow_decoder(state)


def _check_plain(vit: SAIMViT, kind: str) -> None:
    """Refuses what the weights would not tell the other library."""
    reason = peculiarity(vit)
    if not vit.with_cls_token:
        reason = "has no class token"
    eps = vit.layers[0].ln1.eps
    if eps != _EPS:
        reason = f"has norms with an epsilon of {eps:g} and not {_EPS:g}"
    if reason:
        raise ValueError(
            f"format={kind!r}: the encoder {reason}, so the ViT of that library would "
            "compute something else; export it as .onnx or .pt2."
        )


def _official(
    source: Path, out: Path, settings: Mapping[str, Any], heads: int
) -> Certificate:
    """A pretraining checkpoint or a classifier, in the authors' layout."""
    keys = read_state_dict(source) if source.is_file() else {}
    if any(key.startswith("head.projector.") for key in keys):
        model = settings.get("model", {})
        tied = not any(key.startswith("neck.layers.") for key in keys)
        return convert_files.convert_saim_to_release(
            source, out, _smoothing(model.get("head", {})), tied, heads
        )
    if any(key.startswith(("head.fc.", "head.layers.head.")) for key in keys):
        return convert_files.convert_finetuned_to_mmpretrain(source, out, True, heads)
    raise ValueError(
        f"{source}: format='official' holds an encoder with its decoder, or a "
        "classifier, of ours; this file has neither. Give the checkpoint of the run."
    )


def _smoothing(head: Mapping[str, Any]) -> Smoothing | None:
    """The blur that the config tells, or SAIM's own."""
    blur = head.get("smoothing", {})
    if blur is None:
        return None
    return int(blur.get("kernel_size", 9)), float(blur.get("sigma", 1.0))

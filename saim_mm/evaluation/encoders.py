"""The encoder of any file that the converters know, ready to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.utils import SelfSupDataPreprocessor

from ..datasets.channel_preprocessor import ChannelDataPreprocessor
from ..models import SAIMViT
from ..models.baselines.register_vit import RegisterViT
from ..models.baselines.rotary_vit import RotaryViT
from ..utils.config_file import read_config_file
from ..weights import CheckpointError
from ..weights.arch import infer_arch, registers_in
from ..weights.encoder_file import EncoderFile, read_encoder_file
from ..weights.loading import load_encoder_state

#: For a bare encoder, which does not say how its images were normalised.
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
#: Options that no tensor tells and that matter without a plan and in evaluation,
#: besides the epsilon of the norms.
_TOLD_BY_CONFIG = ("visible", "interpolate_mode")


class Encoder(NamedTuple):
    """A frozen encoder and what normalises its images (BGR, or given channels)."""

    backbone: SAIMViT
    preprocessor: BaseDataPreprocessor


def build_encoder(
    checkpoint: str | Path,
    config: str | Path | None = None,
    num_heads: int | None = None,
) -> Encoder:
    """Builds the encoder of a checkpoint and loads it completely, or stops.

    Args:
        checkpoint: Any file of :func:`saim_mm.weights.encoder_file.read_encoder_file`:
            of ours, mmpretrain, the authors' release, MAE, DINO, AIM, NEPA, timm or
            Hugging Face.
        config: Config that it was trained with. By default the sizes are read off the
            tensors, and the number of heads and the normalisation off the config that
            MMEngine keeps in a checkpoint (which is read, not run) or that lies beside
            a foreign one.
        num_heads: Number of heads, where nothing else tells it.

    Returns:
        The encoder, on the CPU, in evaluation mode. It has a final norm if the file
        has one: then it was trained with it, or was exported with that of SAIM's
        decoder. SAIM's own, of pretraining, have none.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the checkpoint is not of an encoder, or does not fit.
        ValueError: If the config does not load, or has no ``SAIMViT``.
    """
    if config:  # a wrong one is told before a large file is read
        settings: Mapping[str, Any] = read_config_file(config)
        options = _options_from_config(settings, config)
        file = read_encoder_file(checkpoint)
    else:
        file = read_encoder_file(checkpoint)
        settings = file.settings
        options = _options_from_tensors(file, checkpoint, num_heads)
    final_norm = f"{file.prefix}ln1.weight" in file.state
    fixed = dict(final_norm=final_norm, out_type="raw", init_cfg=None)
    backbone = options.pop("type")(**{**options, **fixed})
    load_encoder_state(backbone, file.state, checkpoint, file.prefix)
    backbone.eval()
    channels = backbone.patch_embed.projection.in_channels
    return Encoder(backbone, _build_preprocessor(settings, channels, checkpoint))


def _options_from_config(
    settings: Mapping[str, Any], path: str | Path
) -> dict[str, Any]:
    options = dict(settings.get("model", {}).get("backbone", {}))
    kind = str(options.get("type")).removeprefix("saim_mm.")
    known = {each.__name__: each for each in (SAIMViT, RotaryViT, RegisterViT)}
    known["VisionTransformer"] = SAIMViT
    if kind not in known:
        raise ValueError(
            f"{path}: model.backbone is of type {options.get('type')!r}; give a config "
            "whose backbone is a SAIMViT, or none."
        )
    return {**options, "type": known[kind]}


def _options_from_tensors(
    file: EncoderFile, path: str | Path, num_heads: int | None
) -> dict[str, Any]:
    given = file.settings.get("model", {}).get("backbone", {})
    told = {name: given[name] for name in _TOLD_BY_CONFIG if name in given}
    if given.get("norm_cfg", {}).get("type") == "LN":
        told["norm_cfg"] = given["norm_cfg"]
    heads = num_heads or _heads_in(given) or _rotary_heads(file)
    try:
        arch = infer_arch(file.state, file.prefix, heads)
    except KeyError as error:
        raise CheckpointError(f"{path}: the encoder lacks {error}.") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return {**told, **_variant(file), **arch.backbone}


def _variant(file: EncoderFile) -> dict[str, Any]:
    """The class, and what is there or not, by the keys."""
    keys = {key.removeprefix(file.prefix) for key in file.state}
    options: dict[str, Any] = dict(type=SAIMViT)
    if "frequencies" in keys:
        affine = "affine" if "layers.0.q_norm.weight" in keys else "plain"
        norm = affine if "qk_norm" in keys else "off"
        options = dict(type=RotaryViT, qk_norm=norm)
    if tokens := registers_in(file.state, file.prefix):
        place = "suffix" if "suffix_token" in tokens else "prefix"
        number = tokens.get("registers", 0)
        options = dict(type=RegisterViT, num_registers=number, cls_place=place)
    if "patch_embed.norm.weight" in keys:  # AIM
        options["patch_cfg"] = dict(norm_cfg=dict(type="LN", eps=1e-6))
    if "layers.0.ffn.w12.weight" in keys:
        options["layer_cfgs"] = dict(ffn_type="swiglu_fused")
    if "layers.0.attn.gamma1.weight" in keys:
        options["layer_scale_init_value"] = 1.0  # the file has the values
    return options


def _rotary_heads(file: EncoderFile) -> int | None:
    """The number of heads, where their channels are turned by pairs of frequencies."""
    frequencies = file.state.get(f"{file.prefix}frequencies")
    if frequencies is None:
        return None
    return file.state[f"{file.prefix}pos_embed"].shape[-1] // (4 * len(frequencies))


def _heads_in(backbone: Mapping[str, Any]) -> int | None:
    """The number of heads that a config names, directly or by its arch."""
    arch = backbone.get("arch")
    if isinstance(arch, str):
        arch = SAIMViT.arch_zoo.get(arch)
    return arch["num_heads"] if arch else None


def _build_preprocessor(
    settings: Mapping[str, Any], channels: int, path: str | Path
) -> BaseDataPreprocessor:
    given = settings.get("data_preprocessor") or settings.get("model", {}).get(
        "data_preprocessor"
    )
    if str((given or {}).get("type")).endswith("ChannelDataPreprocessor"):
        found = ChannelDataPreprocessor(given["mean"], given["std"], given.get("shown"))
        if found.channels != channels:
            raise CheckpointError(
                f"{path}: an encoder of {channels} channels, and its config normalises "
                f"{found.channels}; give the config that it was trained with."
            )
        return found
    given = given or _IMAGENET
    return SelfSupDataPreprocessor(
        mean=given.get("mean"),
        std=given.get("std"),
        to_rgb=bool(given.get("to_rgb", True) or given.get("bgr_to_rgb")),
    )

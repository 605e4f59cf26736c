"""The configs of the models that experiments pretrain, and of their encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .experiments import Experiment
from .scale import Scale

#: Options of an experiment that are not its model's: of the encoder (in pretraining and
#: when it is judged), what frozen features are of, share of the steps with a rising
#: rate, what SimMIM hides, DINO's local crops of each image, and hooks.
_NOT_THE_MODELS = ("encoder", "pool", "warmup", "hidden_share", "local_crops", "hooks")


def encoder_config(scale: Scale, **options: Any) -> dict[str, Any]:
    """Config of the encoder that all experiments share."""
    arch = dict(
        embed_dims=scale.width,
        num_layers=scale.depth,
        num_heads=scale.heads,
        feedforward_channels=4 * scale.width,
    )
    base = dict(type="SAIMViT", arch=arch, final_norm=False, out_type="raw")
    sizes = dict(img_size=scale.image_size, patch_size=scale.patch_size)
    return {**base, **sizes, **options}


def judged_encoder_config(
    experiment: Experiment, scale: Scale, **options: Any
) -> dict[str, Any]:
    """Config of the encoder as it is used after pretraining."""
    return encoder_config(scale, **{**experiment.options.get("encoder", {}), **options})


def model_config(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """Config of the model that an experiment of a self-supervised task pretrains."""
    makers: dict[str, Callable[..., dict[str, Any]]] = dict(
        saim=_saim, mae=_mae, simmim=_simmim, dino=_dino
    )
    given = experiment.options
    own = {key: given[key] for key in given if key not in _NOT_THE_MODELS}
    return makers[experiment.task](scale, given.get("encoder", {}), **own)


def _saim(
    scale: Scale,
    encoder: dict[str, Any],
    decoder: float | str | None = 1,
    neck: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    **model: Any,
) -> dict[str, Any]:
    """SAIM; ``decoder`` is its share of the encoder's depth, or ``"one"`` layer.

    Parts refuse options that they do not know.
    """
    neck, head = (
        {"type": "SAIMNeck", **(neck or {})},
        {"type": "SAIMHead", **(head or {})},
    )
    width = scale.width
    sizes: dict[str, dict[str, Any]] = dict(
        CrossMAENeck=dict(depth=scale.depth, **_narrow(scale)),
        AIMNeck={},
        AIMHead=dict(width=width),
        BlockHead=dict(width=8 * width),
    )
    depth = 1 if decoder == "one" else round(float(decoder or 0) * scale.depth)
    return dict(
        type=model.pop("type", "SAIM"),
        backbone=encoder_config(scale, **encoder),
        neck={**sizes.get(neck["type"], dict(depth=depth)), **neck},
        head={**sizes.get(head["type"], {}), **head},
        **model,
    )


def _narrow(scale: Scale) -> dict[str, int]:
    """Two thirds of the encoder's heads, as in the decoders of MAE and CrossMAE."""
    heads = max(1, round(scale.heads * 2 / 3))
    return dict(width=scale.width // scale.heads * heads, decoder_heads=heads)


def _mae(
    scale: Scale,
    encoder: dict[str, Any],
    mask_ratio: float = 0.75,
    decoder_depth: int | None = None,
) -> dict[str, Any]:
    """MAE with the proportions of MAE ViT-B: 2/3 of the width, 2/3 of the depth."""
    narrow = _narrow(scale)
    return dict(
        type="MAE",
        backbone=encoder_config(
            scale, type="MAEViT", final_norm=True, mask_ratio=mask_ratio, **encoder
        ),
        neck=dict(
            type="MAEPretrainDecoder",
            num_patches=(scale.image_size // scale.patch_size) ** 2,
            patch_size=scale.patch_size,
            embed_dim=scale.width,
            decoder_embed_dim=narrow["width"],
            decoder_depth=decoder_depth or max(1, round(scale.depth * 2 / 3)),
            decoder_num_heads=narrow["decoder_heads"],
        ),
        head=dict(
            type="MAEPretrainHead",
            norm_pix=True,
            patch_size=scale.patch_size,
            loss=dict(type="PixelReconstructionLoss", criterion="L2"),
        ),
        init_cfg=[
            dict(type="Xavier", layer="Linear", distribution="uniform"),
            dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
        ],
    )


def _simmim(scale: Scale, encoder: dict[str, Any]) -> dict[str, Any]:
    return dict(
        type="SimMIM",
        backbone=encoder_config(
            scale, type="SimMIMViT", final_norm=True, out_type="featmap", **encoder
        ),
        neck=dict(
            type="SimMIMLinearDecoder",
            in_channels=scale.width,
            encoder_stride=scale.patch_size,
        ),
        head=dict(
            type="SimMIMHead",
            patch_size=scale.patch_size,
            loss=dict(type="PixelReconstructionLoss", criterion="L1", channel=3),
        ),
    )


def _dino(scale: Scale, encoder: dict[str, Any]) -> dict[str, Any]:
    """DINO with 16 prototypes for each channel, where ViT-B's has 85.

    The temperature of its teacher does not rise: a run has few epochs.
    """
    prototypes, temperature = 16 * scale.width, 0.04
    return dict(
        type="DINOPretraining",
        backbone=encoder_config(
            scale, final_norm=True, out_type="cls_token", **encoder
        ),
        neck=dict(
            type="DINOProjector",
            in_channels=scale.width,
            hidden_channels=4 * scale.width,
            bottleneck_channels=scale.width,
            out_channels=prototypes,
        ),
        head=dict(
            type="DINOHead",
            out_channels=prototypes,
            teacher_temperature=temperature,
            warmup_teacher_temperature=temperature,
            warmup_epochs=0,
        ),
    )

"""The child config: what it changes of a config, and its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor

from ..evaluation.encoders import Encoder
from ..models import SAIMViT
from ..models.dense.multi_level_vit import spread_layers
from ._outputs import Outputs

#: Rate of AdamW in a config that was made for another optimiser.
_LR = 1e-4
_LAYER_DECAY = 0.65
_DROP_PATH = 0.1

Block = dict[str, Any]


def child_blocks(
    cfg: Config, outputs: Outputs, encoder: Encoder, path: Path, keep_optimizer: bool
) -> tuple[Block, tuple[str, ...]]:
    """The settings that a child of a config changes, to put an encoder into it.

    ``outputs`` is what the config's backbone gives. Also what the settings change, a
    line each.
    """
    backbone, change = _backbone(cfg, outputs, encoder.backbone)
    init_cfg = dict(type="Pretrained", checkpoint=str(path.resolve()))
    model: Block = dict(backbone=dict(_delete_=True, **backbone, init_cfg=init_cfg))
    if cfg.model.get("pretrained"):
        model["pretrained"] = None
    imports = cfg.get("custom_imports", {}).get("imports") or []
    imports = [imports] if isinstance(imports, str) else imports
    blocks: Block = dict(
        custom_imports=dict(
            imports=[*dict.fromkeys([*imports, "saim_mm"])], allow_failed_imports=False
        ),
        model=model,
    )
    changes = [change]
    preprocessor, change = _preprocessor(cfg, encoder)
    in_model = "data_preprocessor" in cfg.model
    (model if in_model else blocks)["data_preprocessor"] = preprocessor
    changes.append(change)
    if cfg.get("load_from"):
        blocks["load_from"] = None
        changes.append(
            f"load_from: {cfg.load_from} is not loaded, being the old model's"
        )
    if not keep_optimizer:
        has_token = backbone.get("encoder", {}).get("with_cls_token", True)
        blocks["optim_wrapper"], change = _optimizer(cfg, has_token)
        changes.append(change)
        schedule = _schedule(cfg)
        if schedule:
            blocks["param_scheduler"] = schedule
            changes.append("schedule: eta_min=0, as it was made for other rates")
    return blocks, tuple(changes)


def _backbone(cfg: Config, outputs: Outputs, vit: SAIMViT) -> tuple[Block, str]:
    """The new backbone, but for ``init_cfg``."""
    encoder: Block = dict(
        arch=arch_of(vit),
        img_size=_side(vit.img_size),
        patch_size=_side(vit.patch_embed.projection.kernel_size),
        drop_path_rate=_DROP_PATH,
        interpolate_mode="bilinear",
    )
    if vit.patch_embed.projection.in_channels != 3:
        encoder["in_channels"] = vit.patch_embed.projection.in_channels
    if outputs == Outputs((vit.embed_dims,), (None,)):
        return (
            dict(type="SAIMViT", **encoder, out_type="cls_token"),
            f"backbone: {cfg.model.backbone.type} -> SAIMViT, its class token",
        )
    windows = ""
    if cfg.default_scope == "mmdet":  # whose images are large
        window = max(vit.patch_resolution)
        encoder.update(
            with_cls_token=False,
            window_size=window,
            global_attn_indexes=spread_layers((1, 2, 3, 4), vit.num_layers),
        )
        windows = f"; attention in windows of {window} x {window} but in four layers"
    return (
        dict(
            type="MultiLevelViT",
            encoder=encoder,
            out_channels=outputs.channels,
            out_strides=outputs.strides,
            **(dict(grouped=True) if outputs.grouped else {}),
        ),
        f"backbone: {cfg.model.backbone.type} -> MultiLevelViT with the same channels "
        f"{outputs.channels} at strides {outputs.strides}{windows}",
    )


def arch_of(vit: SAIMViT) -> str | Block:
    """The name of its size, or what it consists of."""
    settings = dict(vit.arch_settings)
    names = [n for n, arch in vit.arch_zoo.items() if arch == settings and len(n) > 2]
    return names[0] if names else settings


def _side(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else (size[0], size[1])


def _preprocessor(cfg: Config, encoder: Encoder) -> tuple[Block, str]:
    """Mean, deviation and order of colours as in pretraining."""
    numbers = normalisation_of(encoder.preprocessor)
    rgb = bool(encoder.preprocessor._channel_conversion)
    given = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor", {})
    if cfg.default_scope == "mmpretrain" or "to_rgb" in given:
        colours = dict(to_rgb=rgb)
    else:
        colours = dict(bgr_to_rgb=rgb, rgb_to_bgr=False)
    change = (
        f"preprocessor: mean {numbers['mean']}, std {numbers['std']}, as pretrained"
    )
    return {**numbers, **colours}, change


def normalisation_of(preprocessor: BaseDataPreprocessor) -> dict[str, Any]:
    """Its ``mean`` and ``std``, a list each, or ``None``."""
    return {
        name: [
            round(value, 4) for value in getattr(preprocessor, name).flatten().tolist()
        ]
        if hasattr(preprocessor, name)
        else None
        for name in ("mean", "std")
    }


def _optimizer(cfg: Config, has_token: bool) -> tuple[Block, str]:
    """AdamW with layer-wise decay; clipping, precision and accumulation stay."""
    old = cfg.optim_wrapper.get("optimizer", {})
    if old.get("type") == "AdamW":
        optimizer = dict(old)
        said = "rate and decay as they were"
    else:
        optimizer = dict(type="AdamW", lr=_LR, betas=(0.9, 0.99), weight_decay=0.05)
        said = f"instead of {old.get('type')} with rate {old.get('lr')}"
    paramwise = dict(
        layer_decay_rate=_LAYER_DECAY,
        no_decay=["cls_token", "pos_embed"] if has_token else ["pos_embed"],
    )
    wrapper = dict(
        constructor="SAIMOptimWrapperConstructor",
        optimizer=_instead("optimizer", cfg, optimizer),
        paramwise_cfg=_instead("paramwise_cfg", cfg, paramwise),
    )
    change = (
        f"optimizer: AdamW with rate {optimizer['lr']} and layer decay {_LAYER_DECAY}, "
        f"{said}"
    )
    if cfg.optim_wrapper.get("paramwise_cfg"):
        change += "; the old paramwise_cfg is dropped"
    return wrapper, change


def _instead(name: str, cfg: Config, value: Block) -> Block:
    """``_delete_`` is a setting like any other where there is nothing to delete."""
    return dict(_delete_=True, **value) if name in cfg.optim_wrapper else value


def _schedule(cfg: Config) -> list[Block] | None:
    """The schedulers without a lower limit, if one of them has one.

    It is the same number for all rates, and above those of the first layers.
    """
    schedulers = cfg.get("param_scheduler") or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    if not any(s.type.endswith("LR") and s.get("eta_min") for s in schedulers):
        return None
    return [
        {**s, "eta_min": 0.0} if s.type.endswith("LR") and "eta_min" in s else dict(s)
        for s in schedulers
    ]


def child_text(base: str, blocks: Block) -> str:
    """A child of ``base`` as one writes it by hand."""
    lines = [f"_base_ = {_code(base)}"]
    lines += [f"{name} = {_code(value)}" for name, value in blocks.items()]
    return "\n".join(lines) + "\n"


def _code(value: Any, indent: int = 0) -> str:
    """Python for a setting, in the style of OpenMMLab's configs."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    if isinstance(value, dict):
        parts = [f"{key}={_code(item, indent + 4)}" for key, item in value.items()]
        opening, closing = "dict(", ")"
    else:
        parts = [_code(item, indent + 4) for item in value]
        opening, closing = "[]" if isinstance(value, list) else "()"
    line = opening + ", ".join(parts) + closing
    if isinstance(value, tuple) and len(value) == 1:
        line = f"({parts[0]},)"
    if "\n" not in line and indent + len(line) < 80:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
    return f"{opening}\n{inner}{' ' * indent}{closing}"

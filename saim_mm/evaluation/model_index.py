"""What OpenMMLab's model index says of a config, read off the config itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import SAIM
from .flops import saim_flops

#: What the end of a config's name says of its images.
_TRAINING_DATA = {
    "in1k": "ImageNet-1k",
    "coco": "COCO",
    "ade20k": "ADE20K",
    "cifar10": "CIFAR-10",
    "shapes": "made-up shapes",
}
_COLLECTION = {
    "Name": "SAIM",
    "Metadata": {"Architecture": ["Vision Transformer"]},
    "Paper": {
        "Title": "Exploring Stochastic Autoregressive Image Modeling for Visual "
        "Representation",
        "URL": "https://arxiv.org/abs/2212.01610",
    },
}


def recipes(folder: Path) -> list[Path]:
    """The configs of a folder, with those below it, that train a model of their own."""
    found = [path for path in folder.rglob("*.py") if "_base_" not in path.parts]
    return sorted(p for p in found if Config.fromfile(p).get("train_cfg"))


def model_name(config: Path) -> str:
    """The name of a config in the index: its file's, with ``saim_`` for our probes."""
    named = config.parent.name != "benchmarks" or "baselines" in config.parts
    return config.stem if named else f"saim_{config.stem}"


def metafile(
    folder: Path, figures: Mapping[str, Mapping[str, Any]], defines_collection: bool
) -> dict[str, Any]:
    """The content of the ``metafile.yml`` of a folder of configs.

    Args:
        folder: A folder in ``configs``.
        figures: ``paper`` and ``ours``, of which each gives figures by config.
        defines_collection: Whether the collection of all models stands in this file.
    """
    models = []
    for config in recipes(folder):
        key = config.relative_to(folder.parent).as_posix()
        entry = {
            "Name": model_name(config),
            "In Collection": _COLLECTION["Name"],
            "Config": f"configs/{key}",
            "Metadata": metadata(config),
            "Results": figures["ours"].get(key),
            "Paper Results": figures["paper"].get(key),  # quoted, not measured
        }
        models.append(_without_none(entry))
    collections = [_COLLECTION] if defines_collection else []
    return {"Collections": collections, "Models": models}


def metadata(config: str | Path) -> dict[str, Any]:
    """Length of the training, batch, parameters and FLOPs of a config.

    ``FLOPs`` are multiply-adds, as OpenMMLab counts, of the encoder alone for one image
    of the size that is trained on; ``Pretraining FLOPs`` are those of a whole forward
    pass of SAIM.

    Args:
        config: Of any kind here; its model is built on the meta device.
    """
    cfg = Config.fromfile(config)
    model = build_on_meta(cfg)
    size = _image_size(cfg, model.backbone)
    channels = cfg.model.backbone.get("in_channels", 3)
    train = cfg.get("train_cfg") or {}
    batch = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    if batch is None and train:
        batch = cfg.train_dataloader.batch_size
    words = Path(config).stem.replace("-", "_").split("_")
    data = [_TRAINING_DATA[word] for word in words if word in _TRAINING_DATA]
    known = {
        "Training Data": data[0] if data else None,
        "Epochs": train.get("max_epochs"),
        "Iterations": train.get("max_iters"),
        "Batch Size": batch,
        "Image Size": size[0],
        "Parameters": sum(p.numel() for p in model.parameters()),
        "FLOPs": _encoder_flops(model.backbone, channels, size),
    }
    if isinstance(model, SAIM):
        known["Pretraining FLOPs"] = saim_flops(model).forward // 2
    return _without_none(known)


def _without_none(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


def build_on_meta(cfg: Config) -> Any:
    """The model of a config, without values."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            with torch.device("meta"):
                return MODELS.build(cfg.model)
        except RuntimeError:  # CAE reads its drop rates off a tensor
            return MODELS.build(cfg.model).to("meta")


def _image_size(cfg: Config, backbone: Any) -> tuple[int, int]:
    """Height and width that images are padded to, or else those of the encoder."""
    preprocessor = cfg.model.get("data_preprocessor") or {}
    size = preprocessor.get("size") or preprocessor.get("pad_size_divisor")
    size = size or backbone.img_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _encoder_flops(backbone: nn.Module, channels: int, size: tuple[int, int]) -> int:
    image = torch.empty(1, channels, *size, device="meta")
    # Those that mask see the whole image, as they do after pretraining.
    takes = inspect.signature(backbone.forward).parameters
    unmasked = {"mask": None} if "mask" in takes else {}
    backbone.eval()  # returns nothing where mmpretrain overrides train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(image, **unmasked)
    return counter.get_total_flops() // 2

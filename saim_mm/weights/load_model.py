"""A trained model, as its config describes it and its checkpoint left it."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope

from ..utils.config_file import read_config_file
from ..utils.quiet_log import quiet_log
from . import read_state_dict
from .whole_model import check_complete, forget_pretrained


def build_model(cfg: Config, init_weights: bool = False) -> BaseModel:
    """Builds the model of a config, with its preprocessor, as MMEngine's Runner does.

    Names are looked up in the config's ``default_scope`` (mmpretrain if it has none),
    and the scope of the process stays as it is.

    Args:
        cfg: With ``model``; ``data_preprocessor`` may stand beside it. Not changed.
        init_weights: Whether to initialise the model as its config says, without the
            line that MMEngine logs for each parameter.

    Returns:
        The model, on the CPU, in training mode.
    """
    options = cfg.model.to_dict()
    if cfg.get("data_preprocessor"):
        options.setdefault("data_preprocessor", cfg.data_preprocessor.to_dict())
    scope = cfg.get("default_scope") or "mmpretrain"
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(options)
        if init_weights:
            with quiet_log():
                model.init_weights()
    return model


def load_model(
    config: str | Path, checkpoint: str | Path, device: torch.device | str = "cpu"
) -> BaseModel:
    """Builds the model of a pretraining config and loads all of its weights.

    The config is run, as any config is; nothing in the checkpoint is.

    Args:
        config: Config that the model was trained with.
        checkpoint: A checkpoint of that run, with decoder and head.
        device: Where the model is needed.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: If a file is missing.
        CheckpointError: If the checkpoint is not one of this model, key by key.
        ValueError: If the config has no model.
    """
    cfg = read_config_file(config)
    if not cfg.get("model"):
        raise ValueError(f"{config}: has no model; give a config of pretraining.")
    model = build_model(cfg)
    forget_pretrained(model)
    state = read_state_dict(checkpoint)
    check_complete(model, state, str(checkpoint))
    model.load_state_dict(state, strict=False)  # complete, but for the preprocessor
    return model.to(device).eval()

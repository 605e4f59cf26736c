"""A trained model, as its config describes it and its checkpoint left it."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmpretrain.registry import MODELS

from . import read_state_dict
from .whole_model import check_complete, forget_pretrained


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
    cfg = Config.fromfile(config)
    if not cfg.get("model"):
        raise ValueError(f"{config}: has no model; give a config of pretraining.")
    options = cfg.model.to_dict()
    # As MMEngine's Runner does.
    if cfg.get("data_preprocessor"):
        options.setdefault("data_preprocessor", cfg.data_preprocessor.to_dict())
    model = MODELS.build(options)
    forget_pretrained(model)
    state = read_state_dict(checkpoint)
    check_complete(model, state, str(checkpoint))
    model.load_state_dict(state, strict=False)  # complete, but for the preprocessor
    return model.to(device).eval()

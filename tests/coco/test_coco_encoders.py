"""A detector takes the encoder by one line, completely or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from coco_recipes import ALL, LI2021, TINY_VIT, build, config_id, load
from mmdet.registry import MODELS
from mmengine.config import Config

from saim_mm.weights import CheckpointError


def save_encoder(path: Path) -> Path:
    """A bare encoder of the tiny size, pretrained on 4 x 4 patches."""
    vit = dict(
        type="SAIMViT",
        arch=TINY_VIT,
        img_size=64,
        patch_size=16,
        final_norm=False,
    )
    torch.save(MODELS.build(vit).state_dict(), path)
    return path


def with_encoder(path: Path, file: Path | None) -> Config:
    """A shrunk config with its own ``init_cfg``, and what a user sets in it."""
    cfg = load(path)
    cfg.model.backbone.init_cfg = load(path, shrunk=False).model.backbone.init_cfg
    if file is not None:
        cfg.merge_from_dict({"model.backbone.init_cfg.checkpoint": str(file)})
    return cfg


def test_encoder_is_required() -> None:
    cfg = with_encoder(LI2021, None)
    with pytest.raises(ValueError, match="checkpoint.*init_cfg=None"):
        build(cfg)


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_encoder_by_one_line(path: Path, tmp_path: Path) -> None:
    file = save_encoder(tmp_path / "encoder.pth")
    model = build(with_encoder(path, file))
    weight = model.backbone.layers[3].attn.qkv.weight
    assert torch.equal(weight, torch.load(file)["layers.3.attn.qkv.weight"])


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone.arch.embed_dims": 64},
        {"model.backbone.patch_size": 8},
    ],
    ids=["width", "patch size"],
)
def test_encoder_of_another_size_names_file_and_key(
    options: dict[str, int], tmp_path: Path
) -> None:
    file = save_encoder(tmp_path / "encoder.pth")
    cfg = with_encoder(LI2021, file)
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model.backbone)
    with pytest.raises(CheckpointError) as error:
        model.init_weights()
    assert str(file) in str(error.value)
    assert re.search(r"'(pos_embed|patch_embed.projection.weight)'", str(error.value))

"""Golden tables: the rate and the decay of every parameter of each task's model.

The expected table is computed from the paper's rule and from what kind of module owns a
parameter, not from how the constructor goes about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import tiny_backbone
from torch import nn

from saim_mm.launch import fit_to_machine

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

CONFIGS = Path(__file__).parents[1] / "configs"
ADE20K = CONFIGS / "ade20k/upernet_saim-vit-b_160k_ade20k-512.py"
COCO = CONFIGS / "coco/mask-rcnn_saim-vit-b_100e_coco.py"
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
Table = dict[str, tuple[float, float]]


def table_of(model: nn.Module, wrapper_cfg: ConfigDict) -> Table:
    """Name -> (rate / base rate, weight decay) as the optimiser has it."""
    wrapper_cfg.type = "OptimWrapper"
    wrapper_cfg.pop("loss_scale", None)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    base = wrapper_cfg.optimizer.lr
    settings = {
        id(parameter): (group["lr"] / base, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: settings[id(p)] for name, p in model.named_parameters()}


def expected_table(model: nn.Module, layers: int, rate: float, decay: float) -> Table:
    """Embedding at rate^(L+1), layer n of 0..L-1 at rate^(L-n), the rest at 1."""
    table = {}
    for name, owner in owners(model):
        layer = re.match(r"backbone\.layers\.(\d+)\.", name)
        if layer:
            scale = rate ** (layers - int(layer[1]))
        elif re.match(r"backbone\.(cls_token|pos_embed|patch_embed\.)", name):
            scale = rate ** (layers + 1)
        else:
            scale = 1.0
        decays = (
            not isinstance(owner, NORMS)
            and not name.endswith("bias")
            and name not in ("backbone.cls_token", "backbone.pos_embed")
            and "rel_pos" not in name
        )
        table[name] = (pytest.approx(scale, rel=1e-12), decay if decays else 0.0)
    return table


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every parameter's name, with the module that it belongs to."""
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix, recurse=False):
            yield name, module


def test_upernet() -> None:
    """The real model: ViT-B, 12 layers, Table 9."""
    cfg = Config.fromfile(ADE20K)
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    table = table_of(model, cfg.optim_wrapper)
    assert table == expected_table(model, layers=12, rate=0.65, decay=0.05)
    # A few by hand, lest formula and code share a mistake.
    by_hand = {
        "backbone.cls_token": (0.0036972059, 0.0),
        "backbone.pos_embed": (0.0036972059, 0.0),
        "backbone.patch_embed.projection.weight": (0.0036972059, 0.05),
        "backbone.patch_embed.projection.bias": (0.0036972059, 0.0),
        "backbone.layers.0.attn.qkv.weight": (0.0056880091, 0.05),
        "backbone.layers.0.ln1.weight": (0.0056880091, 0.0),
        "backbone.layers.11.ffn.layers.1.weight": (0.65, 0.05),
        "neck.upsample_4x.0.weight": (1.0, 0.05),
        "neck.upsample_4x.1.weight": (1.0, 0.0),
        "decode_head.conv_seg.weight": (1.0, 0.05),
        "decode_head.conv_seg.bias": (1.0, 0.0),
        "auxiliary_head.convs.0.bn.weight": (1.0, 0.0),
    }
    for name, (scale, decay) in by_hand.items():
        assert table[name] == (pytest.approx(scale, rel=1e-7), decay), name


def mask_rcnn() -> nn.Module:
    """mmdet's Mask R-CNN with group norm in its heads, around a plain SAIMViT."""
    norm = dict(type="GN", num_groups=4)
    cfg = Config.fromfile(installed("mmdet", "_base_/models/mask-rcnn_r50_fpn.py"))
    cfg.model.backbone = tiny_backbone(
        out_type="featmap", out_indices=[0, 1, 2, 3], image_size=64, patch_size=16
    )
    cfg.model.neck = [
        dict(type="mmseg.Feature2Pyramid", embed_dim=16, norm_cfg=norm),
        dict(
            type="FPN",
            in_channels=[16] * 4,
            out_channels=256,
            num_outs=5,
            norm_cfg=dict(type="BN"),
        ),
    ]
    cfg.model.roi_head.mask_head.norm_cfg = norm
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def installed(package: str, config: str) -> Path:
    return Path(__import__(package).__file__).parent / ".mim" / "configs" / config


@pytest.mark.parametrize("rate", [0.8, 1.0])
def test_mask_rcnn(rate: float) -> None:
    """A plain SAIMViT of 4 layers; Table 8 (no layer decay), and with layer decay."""
    model = mask_rcnn()
    wrapper_cfg = ConfigDict(
        dict(
            type="OptimWrapper",
            constructor="SAIMOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=8e-5, betas=(0.9, 0.99), weight_decay=0.1),
            paramwise_cfg=dict(
                layer_decay_rate=rate, no_decay=["cls_token", "pos_embed"]
            ),
        )
    )
    table = table_of(model, wrapper_cfg)
    assert table == expected_table(model, layers=4, rate=rate, decay=0.1)
    assert table["backbone.pos_embed"] == (pytest.approx(rate**5), 0.0)
    assert table["roi_head.bbox_head.fc_cls.weight"] == (1.0, 0.1)
    assert table["neck.1.fpn_convs.0.bn.weight"] == (1.0, 0.0)


def test_coco_recipe() -> None:
    """The real model: windowed ViT-B with relative position bias, Table 8."""
    cfg = Config.fromfile(COCO)
    fit_to_machine(cfg)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    table = table_of(model, cfg.optim_wrapper)
    assert table == expected_table(model, layers=12, rate=1.0, decay=0.1)
    undecayed = [name for name in table if "rel_pos" in name]
    assert undecayed
    assert all(table[name] == (1.0, 0.0) for name in undecayed)

"""COCO recipes: the paper's figures, schedules and parameter groups."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from coco_recipes import ALL, LI2021, NO_REL_POS, VITDET, config_id, load
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from saim_mm import launch


def test_recipe_is_table_8() -> None:
    cfg = load(LI2021, shrunk=False)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(type="AdamW", lr=8e-5, betas=(0.9, 0.99), weight_decay=0.1)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.train_dataloader.batch_size * 32 == 64
    assert cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.train_cfg.max_epochs == 100
    backbone = cfg.model.backbone
    assert backbone.drop_path_rate == 0.1
    assert backbone.interpolate_mode == "bilinear"
    assert (backbone.window_size, backbone.use_rel_pos_bias) == (14, True)
    assert backbone.global_attn_indexes == backbone.out_indices == [2, 5, 8, 11]
    assert load(NO_REL_POS, shrunk=False).model.backbone.use_rel_pos_bias is False


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_every_1024_is_the_same_1024(path: Path) -> None:
    cfg = load(path, shrunk=False)
    train = {t["type"]: t for t in cfg.train_dataloader.dataset.pipeline}
    test = {t["type"]: t for t in cfg.test_dataloader.dataset.pipeline}
    sizes = {train["RandomResize"].scale, train["RandomCrop"].crop_size}
    assert sizes == {test["Resize"].scale} == {(1024, 1024)}
    assert train["RandomResize"].ratio_range == (0.1, 2.0)
    assert cfg.model.data_preprocessor.pad_size_divisor == 1024
    if path != VITDET:  # it resizes its position embedding at each step
        assert cfg.model.backbone.img_size == 1024


def test_norms() -> None:
    """GN in the way up, SyncBN in the FPN, and in the heads one that may be empty."""
    model = load(LI2021, shrunk=False).model
    assert model.neck[0].norm_cfg == dict(type="GN", num_groups=32)
    assert model.neck[1].norm_cfg == dict(type="SyncBNOrBN")
    for head in (model.roi_head.bbox_head, model.roi_head.mask_head):
        assert head.norm_cfg == dict(type="SyncBNOrBN", stats_mode="N")
    model = load(VITDET, shrunk=False).model
    for part in (model.neck, model.roi_head.bbox_head, model.roi_head.mask_head):
        assert part.norm_cfg == dict(type="mmpretrain.LN2d", eps=1e-6)


def rates(cfg: Config, iterations: int) -> list[float]:
    """The rate at every iteration of a run of this length."""
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr)
    schedulers = []
    for scheduler in copy.deepcopy(cfg.param_scheduler):
        assert not scheduler.by_epoch
        scheduler.setdefault("end", iterations)  # as Runner does
        where = dict(optimizer=optimizer)
        schedulers.append(PARAM_SCHEDULERS.build(scheduler, default_args=where))
    optimizer.step()
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_schedule_is_quarter_epoch_of_warm_up_then_half_cosine() -> None:
    warm_up, total = 461, 4000
    for iteration, rate in enumerate(rates(load(LI2021), total)):
        progress = (iteration - warm_up) / (total - warm_up)
        expected = 8e-5 * 0.5 * (1 + math.cos(math.pi * progress))
        if iteration < warm_up:
            # MMEngine reaches the peak in the warm-up's last iteration.
            expected = 8e-5 * (1e-3 + (1 - 1e-3) * iteration / (warm_up - 1))
        assert rate == pytest.approx(expected, abs=1e-10)
    assert rate < 1e-10


def test_vitdet_schedule_is_warm_up_and_two_steps() -> None:
    cfg = load(VITDET)
    total = cfg.train_cfg.max_iters
    first, second = (round(total * m) for m in cfg.param_scheduler[1].milestones)
    assert (total, first, second) == (184375, 163889, 177546)
    assert total == 100 * 118_000 // 64
    assert (first, second) == (round(total * 8 / 9), round(total * 26 / 27))
    # The same, with a thousandth of the iterations between the steps.
    cfg.param_scheduler[1].milestones = [1000, 1010]
    for iteration, rate in enumerate(rates(cfg, 1020)):
        expected = 1e-4 * 0.1 ** ((iteration >= 1000) + (iteration >= 1010))
        if iteration < 250:
            expected = 1e-4 * (1e-3 + (1 - 1e-3) * iteration / 249)
        assert rate == pytest.approx(expected)


#: Names -> whether they decay; the rate's scale is (layer decay) ** POWER.
_LAYER = r"backbone\.layers\.\d+\."
GOLDEN_DECAY = {
    r"backbone\.pos_embed": 0.0,
    r"backbone\.patch_embed\.projection\.weight": 0.1,
    r"backbone\.patch_embed\.projection\.bias": 0.0,
    _LAYER + r"ln[12]\.(?:weight|bias)": 0.0,
    _LAYER + r"(?:attn\.(?:qkv|proj)|ffn\.layers\.(?:0\.0|1))\.weight": 0.1,
    _LAYER + r"(?:attn\.(?:qkv|proj)|ffn\.layers\.(?:0\.0|1))\.bias": 0.0,
    r"backbone\.rel_pos_bias_(?:window|global)\.table": 0.0,
    r"neck\.(?:0\.)?scales\.0\.1\.(?:weight|bias)": 0.0,  # norm
    r"neck\.(?:0\.)?scales\.(?:0\.[03]|1)\.weight": 0.1,
    r"neck\.(?:0\.)?scales\.(?:0\.[03]|1)\.bias": 0.0,
    r"neck\.1\.(?:lateral|fpn)_convs\.[0-3]\.conv\.weight": 0.1,
    r"neck\.1\.(?:lateral|fpn)_convs\.[0-3]\.bn\.(?:weight|bias)": 0.0,
    r"neck\.outputs\.[0-3]\.[01]\.conv\.weight": 0.1,
    r"neck\.outputs\.[0-3]\.[01]\.ln\.(?:weight|bias)": 0.0,
    r"rpn_head\.(?:rpn_conv\.[01]\.conv|rpn_cls|rpn_reg)\.weight": 0.1,
    r"rpn_head\.(?:rpn_conv\.[01]\.conv|rpn_cls|rpn_reg)\.bias": 0.0,
    r"roi_head\.bbox_head\.(?:fc_cls|fc_reg|shared_fcs\.0)\.weight": 0.1,
    r"roi_head\.bbox_head\.(?:fc_cls|fc_reg|shared_fcs\.0)\.bias": 0.0,
    r"roi_head\.(?:bbox|mask)_head\.(?:shared_)?convs\.[0-3]\.conv\.weight": 0.1,
    r"roi_head\.(?:bbox|mask)_head\.(?:shared_)?convs\.[0-3]\.(?:bn|ln)\..+": 0.0,
    r"roi_head\.mask_head\.(?:upsample|conv_logits)\.weight": 0.1,
    r"roi_head\.mask_head\.(?:upsample|conv_logits)\.bias": 0.0,
}


def golden_power(name: str) -> int:
    """Layers between a parameter and the top; the embedding is the 13th below it."""
    layer = re.match(r"backbone\.layers\.(\d+)\.", name)
    if layer:
        return 12 - int(layer[1])
    embedding = name.startswith(("backbone.pos_embed", "backbone.patch_embed."))
    return 13 if embedding else 0


@pytest.mark.parametrize(
    ("path", "lr", "layer_decay", "tensors"),
    [(LI2021, 8e-5, 1.0, 223), (NO_REL_POS, 8e-5, 1.0, 221), (VITDET, 1e-4, 0.7, 221)],
)
def test_parameter_groups(
    path: Path, lr: float, layer_decay: float, tensors: int
) -> None:
    """Name -> rate and weight decay, for every parameter of the full model."""
    cfg = load(path, shrunk=False)
    launch.fit_to_machine(cfg)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    table = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert len(table) == len(names) == tensors
    for name, (rate, decay) in table.items():
        (golden,) = [v for k, v in GOLDEN_DECAY.items() if re.fullmatch(k, name)]
        assert decay == golden, name
        assert rate == pytest.approx(lr * layer_decay ** golden_power(name)), name

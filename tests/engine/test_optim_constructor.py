"""Golden parameter groups, and what the options refuse."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmpretrain.registry import MODELS
from torch import nn

import saim_mm  # noqa: F401  registers its parts

WIDTH, LAYERS = 32, 4
ARCH = dict(embed_dims=WIDTH, num_layers=LAYERS, num_heads=2, feedforward_channels=64)


def group_table(model: nn.Module, **paramwise: object) -> dict[str, tuple]:
    """Name -> (lr scale, weight decay) of every parameter that is optimised."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor="SAIMOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
            paramwise_cfg=paramwise or None,
        ),
    )
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"] / 1e-3, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }


@pytest.fixture
def pretraining_model() -> nn.Module:
    return MODELS.build(
        dict(
            type="SAIM",
            backbone=dict(
                type="SAIMViT", arch=ARCH, img_size=32, patch_size=8, final_norm=False
            ),
            neck=dict(type="SAIMNeck", depth=2),
            head=dict(type="SAIMHead"),
        )
    )


@pytest.fixture
def classifier() -> nn.Module:
    return MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="SAIMViT", arch=ARCH, img_size=32, patch_size=8),
            head=dict(
                type="VisionTransformerClsHead", num_classes=5, in_channels=WIDTH
            ),
        )
    )


def test_pretraining_groups_are_the_release_rule(pretraining_model: nn.Module) -> None:
    """Decay exactly what has more than one dimension, the class token included."""
    table = group_table(pretraining_model)
    expected = {
        name: (1.0, 0.05 if param.ndim > 1 else 0.0)
        for name, param in pretraining_model.named_parameters()
        if name != "backbone.pos_embed"  # fixed in pretraining
    }
    assert table == expected
    assert table["backbone.cls_token"] == (1.0, 0.05)
    assert table["neck.norm.weight"] == (1.0, 0.0)


def test_groups_are_as_few_as_can_be(pretraining_model: nn.Module) -> None:
    wrapper = build_optim_wrapper(
        pretraining_model,
        dict(
            constructor="SAIMOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
        ),
    )
    real = [g for g in wrapper.optimizer.param_groups if "lr_scale" in g]
    assert len(real) == 2


def test_layer_decay_groups(classifier: nn.Module) -> None:
    """Embedding r^(L+1), layer i r^(L-i), final norm and head 1 (BEiT, MAE)."""
    rate = 0.65
    table = group_table(
        classifier, layer_decay_rate=rate, no_decay=["cls_token", "pos_embed"]
    )
    assert len(table) == len(list(classifier.parameters()))
    for name, (scale, decay) in table.items():
        if name.startswith(("backbone.cls", "backbone.pos", "backbone.patch")):
            power = LAYERS + 1
        elif name.startswith("backbone.layers."):
            power = LAYERS - int(name.split(".")[2])
        else:
            power = 0
        assert scale == pytest.approx(rate**power), name
        matrix = name.endswith("weight") and ".ln" not in name
        assert decay == (0.05 if matrix else 0.0), name


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        (dict(layer_decay=0.65), "layer_decay_rate"),
        (dict(layer_decay_rate=0.0), "greater than 0"),
        (dict(layer_decay_rate=1.1), "at most 1"),
        (dict(no_decay=["cls_tokn"]), "cls_tokn"),
    ],
)
def test_wrong_options(classifier: nn.Module, paramwise: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_table(classifier, **paramwise)


def test_layer_decay_needs_a_backbone_that_tells() -> None:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="get_layer_depth"):
        group_table(model, layer_decay_rate=0.5)


def test_one_convolution_has_no_layers() -> None:
    """mm's vis_scheduler.py draws the rates of a recipe with nothing else."""
    table = group_table(
        nn.Conv2d(1, 1, 1), layer_decay_rate=0.5, no_decay=["cls_token"]
    )
    assert set(table) == {"weight", "bias"}
    with pytest.raises(ValueError, match="cls_token"):
        group_table(
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), no_decay=["cls_token"]
        )


def test_without_a_gpu_there_is_no_mixed_precision() -> None:
    """MMEngine's wrapper would not even be built."""
    wrapper = build_optim_wrapper(
        nn.Linear(2, 2),
        dict(
            type="AmpOptimWrapper",
            loss_scale="dynamic",
            dtype="float16",
            constructor="SAIMOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=1e-3),
        ),
    )
    assert type(wrapper) is OptimWrapper


def test_frozen_parameters_are_left_out(classifier: nn.Module) -> None:
    classifier.backbone.pos_embed.requires_grad_(False)
    table = group_table(classifier)
    assert "backbone.pos_embed" not in table
    assert torch.is_tensor(classifier.backbone.pos_embed)


@pytest.mark.parametrize("decay", [1.0, 0.65])
def test_frozen_stages_and_no_decay(decay: float) -> None:
    """Names of frozen parameters are no misspellings; misspellings still are."""
    backbone = dict(
        type="SAIMViT", arch=ARCH, img_size=32, patch_size=8, frozen_stages=2
    )
    head = dict(type="VisionTransformerClsHead", num_classes=5, in_channels=WIDTH)
    model = MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=head))
    options = dict(layer_decay_rate=decay)
    names = ["cls_token", "pos_embed", "layers.0.attn.qkv.weight"]
    table = group_table(model, no_decay=names, **options)
    assert table == group_table(model, **options)
    assert set(table) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith("backbone.layers.1.") for n in table)
    assert any(n.startswith("backbone.layers.2.") for n in table)
    with pytest.raises(ValueError, match="pos_embd"):
        group_table(model, no_decay=["pos_embd"], **options)


def test_a_model_that_is_all_frozen(classifier: nn.Module) -> None:
    with pytest.raises(ValueError, match="Every parameter .* frozen_stages"):
        group_table(classifier.requires_grad_(False))


def test_no_decay_of_what_pretraining_fixes(pretraining_model: nn.Module) -> None:
    table = group_table(pretraining_model, no_decay=["pos_embed", "cls_token"])
    assert "backbone.pos_embed" not in table
    assert table["backbone.cls_token"] == (1.0, 0.0)

"""A SAIM encoder behind the interface of a CNN."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from tiny import randomise, tiny_config
from torch import nn

from saim_mm.models import MultiLevelViT
from saim_mm.models.dense.multi_level_vit import spread_layers
from saim_mm.weights import CheckpointError

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
ENCODER = dict(arch=ARCH, img_size=64, patch_size=16)


def build(seed: int = 0, **options: Any) -> MultiLevelViT:
    encoder = {**ENCODER, **options.pop("encoder", {})}
    model = MODELS.build(dict(type="MultiLevelViT", encoder=encoder, **options))
    randomise(model, seed)
    return model


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (65, 97), (250, 31), (7, 9)])
@pytest.mark.parametrize(
    "strides", [(4, 8, 16, 32), (4, 8, 8, 8), (32,), (16, 8, 4, 2, 1), (8, 16, 32, 64)]
)
@pytest.mark.parametrize("patch", [16, 14])
def test_any_size_gives_the_maps_of_a_cnn(
    size: tuple[int, int], strides: tuple[int, ...], patch: int
) -> None:
    channels = tuple(range(5, 5 + len(strides)))
    model = build(
        encoder=dict(patch_size=patch), out_channels=channels, out_strides=strides
    )
    maps = model(torch.randn(2, 3, *size))
    # A convolution of stride 2 and padding 1 halves and rounds up.
    assert [tuple(m.shape) for m in maps] == [
        (2, c, -(-size[0] // s), -(-size[1] // s))
        for c, s in zip(channels, strides, strict=True)
    ]
    assert all(m.isfinite().all() for m in maps)


def layer_norm(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    x = x - x.mean(1, keepdim=True)
    x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


@torch.no_grad()
def test_levels_against_their_definition() -> None:
    """From the encoder's layers, by plain convolutions."""
    model = build(out_channels=(3, 5, 7, 9, 11), out_strides=(4, 8, 16, 32, None))
    model, x = model.double(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    model.encoder.out_indices = [0, 1, 2, 3]
    layers = model.encoder(x)
    model.encoder.out_indices = sorted(set(model.layers))
    assert model.layers == spread_layers((4, 8, 16, 32, None), 4) == [0, 1, 2, 3, 3]

    def project(level: int, x: torch.Tensor) -> torch.Tensor:
        conv = model.levels[level].project
        return layer_norm(F.conv2d(x, conv.conv.weight), conv.norm)

    def up(step: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose2d(x, step.weight, step.bias, stride=2)

    first, norm, _, second = model.levels[0].rescale
    finest = up(second, F.gelu(layer_norm(up(first, layers[0]), norm)))
    expected = (
        project(0, finest),
        project(1, up(model.levels[1].rescale[0], layers[1])),
        project(2, layers[2]),
        project(3, F.max_pool2d(layers[3], 2)),
        project(4, layers[3]).mean((2, 3)),
    )
    for found, wanted in zip(model(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert [c.out_channels for c in (first, second)] == [8, 4]


def test_layers_are_spread_by_stride() -> None:
    assert spread_layers((4, 8, 16, 32), 12) == [2, 5, 8, 11]
    assert spread_layers((4, 8, 8, 8), 24) == [5, 11, 17, 23]
    assert spread_layers((32, 16, 8), 12) == [11, 7, 3]
    assert spread_layers((None,), 12) == [11]
    assert spread_layers((None, 16, None), 12) == [11, 11, 11]
    assert spread_layers((2, 4, 8, 16, 32), 2) == [0, 0, 0, 1, 1]


def test_a_group_is_one_output() -> None:
    options = dict(out_channels=(5, 6), out_strides=(None, 16))
    x = torch.randn(1, 3, 64, 64)
    (grouped,) = build(**options, grouped=True).eval()(x)
    for found, wanted in zip(grouped, build(**options).eval()(x), strict=True):
        assert torch.equal(found, wanted)


def test_the_simple_pyramid_reads_the_last_layer_alone() -> None:
    model = build(layers=[3] * 4)
    captured = []
    model.encoder.layers[2].register_forward_hook(lambda *a: captured.append(a[2]))
    before = [m.detach() for m in model(torch.randn(1, 3, 64, 64))]
    assert model.encoder.out_indices == [3]
    assert len(captured) == 1
    assert len(before) == 4


def test_padding_is_cropped_away() -> None:
    """The map of a padded image, but for the padding."""
    model = build().eval()
    x = torch.randn(1, 3, 50, 70)
    padded = F.pad(x, (0, 10, 0, 14))
    for small, large in zip(model(x), model(padded), strict=True):
        rows, columns = small.shape[-2:]
        torch.testing.assert_close(small, large[:, :, :rows, :columns])


def test_checkpointing_changes_no_gradient() -> None:
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for with_cp in (False, True):
        # Frozen layers below: a reentrant checkpoint would give no gradient here.
        model = build(with_cp=with_cp, encoder=dict(frozen_stages=1)).train()
        runs: list[int] = []
        norm = model.encoder.layers[2].ln1
        norm.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        sum(level.square().sum() for level in model(x)).backward()
        assert len(runs) == 1 + with_cp
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None
        else:
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=0)


def test_a_checkpointed_copy_runs_its_own_weights() -> None:
    """As EMA needs it; MMEngine's activation_checkpointing runs the original's."""
    model = build(with_cp=True).train()
    copied = copy.deepcopy(model)
    randomise(copied, seed=1)
    x = torch.randn(1, 3, 64, 64)
    fresh = build(seed=1).train()
    for found, wanted in zip(copied(x), fresh(x), strict=True):
        assert torch.equal(found, wanted)


def test_frozen_stages_stay_as_they_are() -> None:
    model = build(encoder=dict(frozen_stages=2, drop_path_rate=0.5)).train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(
            ("encoder.cls_token", "encoder.pos_embed", "encoder.patch_embed.")
            + ("encoder.layers.0.", "encoder.layers.1.")
        )
    }
    assert frozen == expected
    modes = [layer.training for layer in model.encoder.layers]
    assert modes == [False, False, True, True]
    sum(level.square().sum() for level in model(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in expected), name


def test_one_window_is_no_window() -> None:
    options = dict(with_cls_token=False)
    plain = build(encoder=options).eval()
    windowed = build(encoder=dict(**options, window_size=4)).eval()
    larger = torch.randn(1, 3, 128, 64)
    for found, wanted in zip(
        windowed(larger[:, :, :64]), plain(larger[:, :, :64]), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(windowed(larger)[2], plain(larger)[2], atol=1e-3)


def test_layer_decay_and_depths() -> None:
    model = nn.Module()
    model.backbone = build()
    model.head = nn.Linear(3, 2)
    wrapper = build_optim_wrapper(
        model,
        ConfigDict(
            type="OptimWrapper",
            constructor="SAIMOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
            paramwise_cfg=dict(
                layer_decay_rate=0.5, no_decay=["cls_token", "pos_embed"]
            ),
        ),
    )
    rates = {
        id(p): group["lr"]
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        layer = 5
        if name.startswith("backbone.encoder.layers."):
            layer = 1 + int(name.split(".")[3])
        elif name.startswith("backbone.encoder."):
            layer = 0
        assert rates[id(parameter)] == 0.5 ** (5 - layer), name


def test_autocast_is_close_to_float32() -> None:
    model = build().eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    for found, wanted in zip(low, model(x), strict=True):
        assert found.isfinite().all()
        assert F.cosine_similarity(found.float().flatten(), wanted.flatten(), 0) > 0.99


def test_it_loads_completely_or_not_at_all(tmp_path: Path) -> None:
    saim = MODELS.build(
        tiny_config(
            image_size=(64, 64), patch_size=(16, 16), embed_dims=16, num_layers=4
        )
    )
    randomise(saim, seed=3)
    path = tmp_path / "epoch_1.pth"
    state = saim.state_dict()
    torch.save(dict(state_dict=state), path)
    init_cfg = dict(type="Pretrained", checkpoint=str(path))
    for encoder in ({}, dict(with_cls_token=False, window_size=2)):
        model = build(encoder=encoder, init_cfg=init_cfg)
        model.init_weights()
        for name, tensor in model.encoder.state_dict().items():
            wanted = state[f"backbone.{name}"]
            if name == "pos_embed" and encoder:
                wanted = wanted[:, 1:]
            assert torch.equal(tensor, wanted), name
    del state["backbone.layers.1.ln2.bias"]
    torch.save(dict(state_dict=state), path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.ln2\.bias is missing"):
        build(init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(out_channels=(8, 8)), "for every level"),
        (dict(out_channels=(), out_strides=()), "at least one level"),
        (dict(out_channels=(8, 0, 8, 8)), "at least 1"),
        (dict(layers=[0, 1, 2]), "for each of the 4 levels"),
        (dict(layers=[0, 1, 2, 2]), "without gradient"),
        (dict(layers=[0, 1, 2, 4]), "from 0 to 3"),
        (dict(encoder=dict(out_indices=[3])), "out_indices.*leave them out"),
        (dict(encoder=dict(patch_size=(16, 8))), "square patches"),
    ],
)
def test_wrong_options_stop(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build(**options)


def in_scope(scope: str, config: dict[str, Any]) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config)


BACKBONE = dict(type="MultiLevelViT", encoder=ENCODER)


def test_the_neck_of_mmdet_takes_it() -> None:
    pytest.importorskip("mmdet")
    fpn = dict(
        type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=8, num_outs=5
    )
    backbone, neck = in_scope("mmdet", BACKBONE), in_scope("mmdet", fpn)
    outs = neck(backbone(torch.randn(1, 3, 100, 130)))
    assert [tuple(o.shape[2:]) for o in outs] == [
        (25, 33),
        (13, 17),
        (7, 9),
        (4, 5),
        (2, 3),
    ]


def test_the_heads_of_mmseg_take_it() -> None:
    pytest.importorskip("mmseg")
    head = dict(
        type="UPerHead",
        in_channels=[256, 512, 1024, 2048],
        in_index=[0, 1, 2, 3],
        channels=8,
        num_classes=5,
        norm_cfg=dict(type="BN"),
    )
    backbone, head = in_scope("mmseg", BACKBONE), in_scope("mmseg", head).eval()
    assert head(backbone(torch.randn(1, 3, 100, 130))).shape == (1, 5, 25, 33)


@pytest.mark.parametrize("stride", [32, None])
def test_the_heads_of_mmpretrain_take_it(stride: int | None) -> None:
    config = dict(
        type="ImageClassifier",
        backbone=dict(**BACKBONE, out_channels=(20,), out_strides=(stride,)),
        neck=dict(type="GlobalAveragePooling") if stride else None,
        head=dict(type="LinearClsHead", num_classes=5, in_channels=20),
    )
    model = in_scope("mmpretrain", config)
    assert model(torch.randn(2, 3, 70, 64)).shape == (2, 5)


@pytest.mark.parametrize("frozen", [0, 1, 2, 4])
def test_frozen_layers_stay_in_evaluation(frozen: int) -> None:
    model = build(encoder=dict(frozen_stages=frozen, drop_path_rate=0.1))
    model.eval()
    modes = [layer.training for layer in model.train().encoder.layers]
    assert modes == [layer >= frozen for layer in range(4)]

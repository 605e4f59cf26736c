"""Initial distributions: those of the authors' release, wide enough to measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS
from tiny import tiny_backbone, tiny_config, tiny_saim
from torch import Tensor, nn

from saim_mm.models import SAIM, SAIMHead, SAIMNeck, SAIMViT
from saim_mm.models.layers import AttentionBlock
from saim_mm.models.saim_vit import sincos_position_embedding

WIDTH = 256


@pytest.fixture(scope="module")
def model() -> SAIM:
    torch.manual_seed(0)
    saim = MODELS.build(
        tiny_config(
            image_size=(32, 48),
            patch_size=(16, 16),
            embed_dims=WIDTH,
            num_heads=4,
            num_layers=2,
            depth=2,
            projector="transformer",
        )
    )
    saim.init_weights()
    return saim


def _assert_xavier(weight: Tensor, name: str) -> None:
    """Uniform within the xavier bound of a (fan out, fan in) matrix, all of it used."""
    bound = math.sqrt(6 / sum(weight.shape))
    assert 0.995 * bound < weight.max() <= bound, name
    assert -bound <= weight.min() < -0.995 * bound, name
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02), name
    assert abs(weight.mean()) < 0.02 * bound, name


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def test_linear_layers_are_xavier(model: SAIM) -> None:
    """Each third of a joint query-key-value matrix is drawn as its own D x D one."""
    counted = 0
    for name, linear in _linears(model):
        parts = linear.weight.chunk(3) if name.endswith("qkv") else [linear.weight]
        for part in parts:
            _assert_xavier(part.detach(), name)
            counted += 1
        assert torch.count_nonzero(linear.bias) == 0, name
    # 2 encoder, 2 decoder and 2 head layers of q, k, v, proj, fc1, fc2; to pixels.
    assert counted == 6 * 6 + 1


@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_other_heads_are_xavier(projector: str) -> None:
    head = SAIMHead(WIDTH, num_heads=4, projector=projector)
    head.init_weights()
    linears = list(_linears(head))
    assert len(linears) == {"linear": 1, "mlp": 2}[projector]
    for name, linear in linears:
        _assert_xavier(linear.weight.detach(), name)
        assert torch.count_nonzero(linear.bias) == 0


def test_norms_are_identities(model: SAIM) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * 6 + 1
    for norm in norms:
        assert norm.eps == 1e-6
        assert torch.equal(norm.weight, torch.ones(WIDTH))
        assert torch.equal(norm.bias, torch.zeros(WIDTH))


def test_patch_projection_is_xavier_flattened(model: SAIM) -> None:
    """As the D x (C*p*p) matrix that it is, not as a convolution."""
    projection = model.backbone.patch_embed.projection
    _assert_xavier(projection.weight.detach().flatten(1), "projection")
    assert torch.count_nonzero(projection.bias) == 0


def test_class_token_is_normal(model: SAIM) -> None:
    cls = model.backbone.cls_token.detach()
    assert cls.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(cls.mean()) < 0.004
    assert cls.abs().max() > 0.04  # not uniform, not cut off at two deviations


def test_position_embedding_is_sincos(model: SAIM) -> None:
    table = model.backbone.pos_embed[0]
    assert torch.count_nonzero(table[0]) == 0  # the class token has no position
    assert torch.equal(table[1:], sincos_position_embedding((2, 3), WIDTH))


def test_bare_vit_starts_the_same_way() -> None:
    config = tiny_backbone(embed_dims=WIDTH, with_cls_token=False)
    vit = MODELS.build(config)
    vit.init_weights()
    for layer in vit.layers:
        assert isinstance(layer, AttentionBlock)
        for third in layer.attn.qkv.weight.detach().chunk(3):
            _assert_xavier(third, "qkv")
    assert torch.equal(vit.pos_embed[0], sincos_position_embedding((2, 3), WIDTH))


def test_seed_reproduces() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        saim = MODELS.build(tiny_config())
        saim.init_weights()
        return saim.state_dict()

    a, b, c = build(1), build(1), build(2)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(
        a["neck.layers.0.attn.proj.weight"], c["neck.layers.0.attn.proj.weight"]
    )


def _parts() -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    backbone = tiny_backbone()
    backbone.pop("type")
    sizes = dict(embed_dims=16, num_heads=2)
    return {
        "backbone": (SAIMViT, backbone),
        "neck": (SAIMNeck, dict(depth=2, feedforward_channels=32, **sizes)),
        "head": (SAIMHead, dict(patch_size=(4, 4), **sizes)),
    }


@pytest.mark.parametrize("part", _parts())
def test_checkpoint_is_not_overwritten(part: str, tmp_path: Path) -> None:
    """A part that names a checkpoint starts from it, each parameter of it."""
    build, options = _parts()[part]
    source = build(**options)
    path = str(tmp_path / "part.pth")
    torch.save(source.state_dict(), path)
    loaded = build(**options, init_cfg=dict(type="Pretrained", checkpoint=path))
    loaded.init_weights()
    expected = source.state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_whole_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    """The same for SAIM as a whole, whose parts initialise themselves first."""
    source = tiny_saim()
    path = str(tmp_path / "saim.pth")
    torch.save(source.state_dict(), path)
    init_cfg = dict(type="Pretrained", checkpoint=path)
    loaded = MODELS.build(dict(tiny_config(), init_cfg=init_cfg))
    loaded.init_weights()
    expected = source.state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name

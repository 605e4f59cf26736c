"""Necks that make a pyramid of a plain ViT's maps."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import saim_mm  # noqa: F401


def test_four_layer_pyramid_is_the_one_of_mmseg() -> None:
    """Same modules in the same order, so the same numbers."""
    mmseg = pytest.importorskip("mmseg.registry")
    norm = dict(type="GN", num_groups=4)
    ours = MODELS.build(dict(type="FourLayerPyramid", embed_dims=8, norm_cfg=norm))
    theirs = mmseg.MODELS.build(
        dict(type="mmseg.Feature2Pyramid", embed_dim=8, norm_cfg=norm)
    )
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(other.data)
    maps = [torch.randn(2, 8, 4, 6) for _ in range(4)]
    for mine, other in zip(ours(maps), theirs(maps), strict=True):
        assert torch.equal(mine, other)


def test_simple_pyramid_has_five_scales_of_one_map() -> None:
    neck = MODELS.build(dict(type="SimpleFeaturePyramid", embed_dims=8, out_channels=4))
    maps = neck([torch.randn(1, 8, 4, 8)])
    assert [m.shape[1:] for m in maps] == [
        (4, 16, 32), (4, 8, 16), (4, 4, 8), (4, 2, 4), (4, 1, 2)
    ]  # fmt: skip
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])
    norms = [m for m in neck.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 4
    assert {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize("kind", ["FourLayerPyramid", "SimpleFeaturePyramid"])
def test_wrong_number_of_maps_names_the_option(kind: str) -> None:
    neck = MODELS.build(dict(type=kind, embed_dims=32))
    with pytest.raises(ValueError, match="got 2 maps .* out_indices"):
        neck([torch.zeros(1, 32, 4, 4)] * 2)
    with pytest.raises(ValueError, match="multiple of 4"):
        MODELS.build(dict(type="SimpleFeaturePyramid", embed_dims=6))

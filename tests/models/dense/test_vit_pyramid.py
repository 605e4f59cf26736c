"""Necks that make a pyramid of a plain ViT's maps."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings
from torch import nn

import saim_mm  # noqa: F401

NORM = dict(type="GN", num_groups=4)


def test_four_layer_pyramid_is_the_one_of_mmseg() -> None:
    """Same modules in the same order, so the same numbers."""
    mmseg = pytest.importorskip("mmseg.registry")
    ours = MODELS.build(dict(type="FourLayerPyramid", embed_dims=8, norm_cfg=NORM))
    theirs = mmseg.MODELS.build(
        dict(type="mmseg.Feature2Pyramid", embed_dim=8, norm_cfg=NORM)
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


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (3, 2)])
def test_maps_of_one_row_or_column(size: tuple[int, int]) -> None:
    """What cannot be halved stays; the rest is as before."""
    height, width = size
    half = max(height // 2, 1), max(width // 2, 1)
    x = torch.randn(1, 8, *size)
    neck = MODELS.build(dict(type="FourLayerPyramid", embed_dims=8, norm_cfg=NORM))
    maps = neck([x] * 4)
    assert [m.shape[2:] for m in maps] == [
        (4 * height, 4 * width), (2 * height, 2 * width), size, half
    ]  # fmt: skip
    rows = [x[:, :, 2 * i : 2 * i + 2].amax(2) if height > 1 else x[:, :, 0]
            for i in range(half[0])]  # fmt: skip
    for row, pooled in zip(rows, maps[3].unbind(2), strict=True):
        for i, value in enumerate(pooled.unbind(2)):
            assert torch.equal(value, row[:, :, 2 * i : 2 * i + 2].amax(2))
    simple = MODELS.build(
        dict(type="SimpleFeaturePyramid", embed_dims=8, out_channels=4)
    )
    assert simple([x])[3].shape[2:] == half


@pytest.mark.parametrize("rescales", [[4, 2, 1, 0.5], [2, 1, 0.5, 0.25]])
def test_pyramid_of_mmseg_for_any_size(rescales: list[float]) -> None:
    mmseg = pytest.importorskip("mmseg.registry")
    import_modules_from_strings("saim_mm.models.dense.feature2pyramid")
    options = dict(embed_dim=8, norm_cfg=NORM, rescales=rescales)
    ours, theirs = (
        mmseg.MODELS.build(dict(type=kind, **options))
        for kind in ("AnySizeFeature2Pyramid", "mmseg.Feature2Pyramid")
    )
    ours.load_state_dict(theirs.state_dict())  # strictly
    maps = [torch.randn(2, 8, 5, 7) for _ in range(4)]
    for mine, other in zip(ours(maps), theirs(maps), strict=True):
        assert torch.equal(mine, other)
    thin = [torch.randn(2, 8, 1, 7) for _ in range(4)]
    with pytest.raises(RuntimeError, match="too small"):
        theirs(thin)
    shapes = [(max(int(k), 1), max(int(7 * k), 1)) for k in rescales]
    assert [m.shape[2:] for m in ours(thin)] == shapes

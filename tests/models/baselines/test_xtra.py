"""XTRA's target: the pixels of a whole block, normalised together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from dependence import dependence
from tiny import relative, tiny_images, tiny_saim

from saim_mm.models import SAIM, BlockHead
from saim_mm.models.saim_head import patch_statistics, patchify, unpatchify


def xtra(**options: Any) -> SAIM:
    head = dict(width=32, **options.pop("head", {}))
    defaults: dict[str, Any] = dict(
        order="segments", segment_order="raster", segment_size=(2, 2)
    )
    return tiny_saim(
        image_size=(16, 16),
        head=dict(_delete_=True, type="BlockHead", **head),
        **{**defaults, **options},
    )


def test_blocks_put_back_are_the_pixels() -> None:
    model = xtra(head=dict(norm_pix=False))
    images = tiny_images(model, 2)
    target = model.head.target(images)
    assert torch.equal(unpatchify(target, (4, 4), (4, 4)), images)


def test_target_is_normalised_over_each_block() -> None:
    model = xtra()
    images = tiny_images(model, 2)
    blurred = model.head.target(images)
    whole = unpatchify(blurred, (4, 4), (4, 4))
    for top in (0, 8):
        for left in (0, 8):
            ours = whole[:, :, top : top + 8, left : left + 8].flatten(1)
            block = images[:, :, top : top + 8, left : left + 8].flatten(1)
            block = block - block.mean(1, keepdim=True)
            assert (
                relative(ours, block / (block.var(1, keepdim=True) + 1e-6).sqrt())
                < 1e-6
            )


def test_prediction_is_of_the_queries_side_by_side() -> None:
    """Four queries of a segment, an MLP, and the patches of that segment in order."""
    model = xtra()
    queries = torch.randn(2, 16, 16)
    predicted = model.head(queries)
    first, act, last = model.head.projector.to_pixels
    for segment in range(4):
        rows = slice(4 * segment, 4 * segment + 4)
        expected = last(act(first(queries[:, rows].flatten(1)))).view(2, 4, 48)
        assert relative(predicted[:, rows], expected) < 1e-6


@pytest.mark.parametrize("segment_order", ["raster", "random"])
def test_no_prediction_sees_its_block(segment_order: str) -> None:
    model = xtra(segment_order=segment_order)
    images = tiny_images(model, 4)
    plan = model.plan(images)
    seen = dependence(
        lambda x: model.predict_asked(x, plan), images, plan.order, (4, 4)
    )
    ranks = torch.arange(16)
    expected = ranks < (ranks // 4 * 4)[:, None]
    assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(order="raster", segment_order="random", segment_size=None),
            "order='segments'",
        ),
        (dict(query_share=0.5), "projector='mlp'"),
        (dict(reading=dict(type="StrataReading", strata=2)), "projector='mlp'"),
        (dict(head=dict(segment_size=(4, 4))), r"segment_size=\(4, 4\)"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        xtra(**options)


def test_blocks_of_an_image_that_is_not_square() -> None:
    """2 x 3 blocks of 2 x 1 patches, each normalised where it stands."""
    head = BlockHead(segment_size=(2, 1), patch_size=(4, 4), embed_dims=16, num_heads=2)
    images = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    expected = images.clone()
    for row, column in itertools.product((0, 8), (0, 4, 8)):
        block = expected[:, :, row : row + 8, column : column + 4]
        mean, std = patch_statistics(block.flatten(1)[:, None])
        block.sub_(mean[..., None]).div_(std[..., None])
    torch.testing.assert_close(head.target(images), patchify(expected, (4, 4)))

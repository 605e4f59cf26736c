"""The masks that are drawn are those of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import step_of, tiny_saim

from saim_mm.visualization import order_sheet
from saim_mm.visualization.order_masks import raster_masks, sorted_masks

CASES = [dict(), dict(order="raster"), dict(order="segments", segment_size=(2, 1))]


@pytest.mark.parametrize("options", CASES)
def test_raster_masks_follow_from_the_steps(options: dict) -> None:
    model = tiny_saim(**options)
    order = model.order_sampler.draw(1, torch.device("cpu"))
    step = step_of(model, order)[0].numpy()
    content, query = raster_masks(model.order_sampler, order[0])
    with_cls = np.concatenate([[-1], step])
    assert np.array_equal(content, with_cls[:, None] >= with_cls[None])
    assert np.array_equal(query, step[:, None] > with_cls[None])


def test_sorted_masks_are_triangles() -> None:
    content, query = sorted_masks(tiny_saim().order_sampler)
    assert np.array_equal(content, np.tri(7, dtype=bool))
    assert np.array_equal(query, np.tri(6, 7, dtype=bool))


def test_sheet_of_a_small_and_of_a_large_grid() -> None:
    for grid in ((2, 3), (8, 8)):
        image_size = (4 * grid[0], 4 * grid[1])
        family = tiny_saim(image_size=image_size).order_sampler
        order = family.draw(1, torch.device("cpu"))[0]
        sheet = order_sheet(family, order, grid)
        assert sheet.shape == (1312, 1536, 3)
        blue = (sheet == (59, 110, 165)).all(-1).mean()
        assert blue > 0.1

"""Feature maps and the curve by depth: what they draw is what the layers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_images, tiny_saim

from saim_mm.visualization import (
    draw_layer_curve,
    feature_maps,
    feature_sheet,
    layer_patches,
    mean_by_place,
    pca_colours,
)


def slow_colours(patches: np.ndarray) -> np.ndarray:
    """By the eigenvectors of the covariance, a component at a time."""
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    colours = []
    for index in values.argsort()[::-1][:3]:
        direction = vectors[:, index]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        part = rows @ direction
        low, high = np.quantile(part, [0.02, 0.98])
        colours.append(np.clip((part - low) / (high - low), 0, 1))
    return np.stack(colours, axis=-1).reshape(*patches.shape[:2], 3)


def test_colours_equal_numpy_s() -> None:
    patches = torch.randn(3, 40, 6) * torch.tensor([5.0, 1, 3, 0.1, 2, 0.5]) + 7
    found = pca_colours(patches)
    np.testing.assert_allclose(found, slow_colours(patches.numpy()), atol=1e-4)
    assert found.min() == 0 and found.max() == 1


def test_alike_means_the_same_colour_in_all_images() -> None:
    kinds = torch.randn(4, 8)
    which = torch.randint(4, (2, 30))
    colours = pca_colours(kinds[which])
    for kind in range(4):
        of_kind = colours[(which == kind).numpy()]
        assert np.ptp(of_kind, axis=0).max() < 1e-9
    assert len(np.unique(colours.reshape(-1, 3).round(6), axis=0)) == 4


def test_what_only_says_where_a_patch_lies_can_be_subtracted() -> None:
    places = 100 * torch.randn(30, 8)
    kinds = torch.randn(4, 8)[torch.randint(4, (2, 30))]
    torch.testing.assert_close(
        torch.from_numpy(pca_colours(kinds + places, places)),
        torch.from_numpy(pca_colours(kinds)),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip
    assert np.abs(pca_colours(kinds + places) - pca_colours(kinds)).max() > 0.2


def test_mean_by_place_is_that_of_all_images() -> None:
    model = tiny_saim()
    images = tiny_images(model, 5)
    found = mean_by_place(model.backbone, images.split(2), [1, 3])
    for layer, patches in layer_patches(model.backbone, images, [1, 3]).items():
        torch.testing.assert_close(found[layer], patches.mean(dim=0))


def test_few_channels_or_equal_patches_give_a_picture() -> None:
    assert pca_colours(torch.randn(1, 5, 2)).shape == (1, 5, 3)
    assert np.isfinite(pca_colours(torch.ones(2, 5, 6))).all()


def test_patches_are_those_of_the_layers_and_the_model_stays() -> None:
    model = tiny_saim()
    backbone, images = model.backbone, tiny_images(model, 2)
    model.train()
    found = layer_patches(backbone, images, [0, 3])
    assert backbone.training
    backbone.eval()
    backbone.out_indices, backbone.out_type = [0, 3], "raw"
    with torch.no_grad():
        first, last = backbone(images)
    torch.testing.assert_close(found[0], first[:, 1:])
    torch.testing.assert_close(found[3], last[:, 1:])
    assert not any(layer._forward_hooks for layer in backbone.layers)

    maps = feature_maps(backbone, images)
    assert list(maps) == ["features of layer 2", "features of layer 3"]
    np.testing.assert_allclose(
        maps["features of layer 3"].reshape(2, 6, 3), pca_colours(found[3])
    )


def test_sheet_has_a_column_per_map() -> None:
    originals = np.zeros((2, 8, 12, 3), np.uint8)
    colours, values = np.zeros((2, 2, 3, 3)), np.zeros((2, 2, 3))
    sheet = feature_sheet(originals, {"attention": values, "layer 1": colours})
    assert sheet.shape[1] == pytest.approx(3 * 1.66 * 160, abs=2)


def test_curves_are_drawn_where_their_figures_are() -> None:
    """A better layer is drawn higher: the line moves up where a figure does."""
    flat = draw_layer_curve({"linear_best": [50.0, 60.0, 60.0, 50.0]})
    peak = draw_layer_curve({"linear_best": [50.0, 60.0, 40.0, 50.0]})
    assert flat.shape == peak.shape
    assert not np.array_equal(flat, peak)
    two = draw_layer_curve(
        {"linear_best": [50.0, 60.0], "linear_best_cls": [40.0, 9.0]}
    )
    blue = (np.abs(two.astype(int) - [31, 119, 180]).sum(axis=-1) < 30).sum()
    orange = (np.abs(two.astype(int) - [255, 127, 14]).sum(axis=-1) < 30).sum()
    assert blue > 300 and orange > 300

"""A perfect prediction gives back the smoothed image; the sheet shows all there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from mmpretrain.models import SelfSupDataPreprocessor
from tiny import SMOOTHING, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.visualization import (
    denormalise,
    reconstruction,
    reconstruction_sheet,
    save_png,
    step_maps,
    to_rgb,
)

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize("smoothing", [SMOOTHING, None])
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(
    "sizes", [((8, 12), (4, 4)), ((12, 8), (6, 2)), ((8, 8), (2, 2))]
)
def test_perfect_prediction_gives_back_the_smoothed_image(
    smoothing: dict[str, Any] | None, norm_pix: bool, channels: int, sizes: tuple
) -> None:
    image_size, patch_size = sizes
    model = tiny_saim(
        smoothing=smoothing,
        norm_pix=norm_pix,
        channels=channels,
        image_size=image_size,
        patch_size=patch_size,
    )
    images = tiny_images(model, 3)
    restored = denormalise(model.head.target(images), images, model.head)
    expected = model.head.blur(images)
    assert restored.dtype == torch.float32
    assert restored.shape == images.shape
    assert (restored - expected).abs().max() <= 1e-5


def test_perfect_prediction_of_a_flat_patch() -> None:
    """Where the deviation is nearly zero, nothing may blow up."""
    model = tiny_saim(smoothing=None)
    images = torch.full_like(tiny_images(model, 1), 0.7)
    restored = denormalise(model.head.target(images), images, model.head)
    assert (restored - images).abs().max() <= 1e-5


def test_wrong_prediction_shows() -> None:
    """Patch statistics are restored, the structure is the prediction's own."""
    model = tiny_saim(smoothing=None)
    images = tiny_images(model, 2)
    target = model.head.target(images)
    flat = denormalise(torch.zeros_like(target), images, model.head)
    # Predicting nothing gives each patch's mean: 4 x 4 pixels and 3 channels together.
    tile = images[0, :, :4, 4:8]
    assert torch.allclose(flat[0, :, :4, 4:8], tile.mean().expand(3, 4, 4), atol=1e-5)
    negative = denormalise(-target, images, model.head)
    assert torch.allclose(negative, 2 * flat - images, atol=1e-5)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_to_rgb_undoes_the_preprocessor_to_the_bit() -> None:
    bgr = pixels(2, 3, 8, 12)
    preprocessor = SelfSupDataPreprocessor(**IMAGENET, to_rgb=True)
    images = preprocessor(dict(inputs=bgr, data_samples=[]))["inputs"]
    shown = to_rgb(images, preprocessor)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, bgr.flip(1).permute(0, 2, 3, 1).numpy())


def test_to_rgb_knows_images_that_were_left_bgr() -> None:
    bgr = pixels(2, 3, 4, 4)
    shown = to_rgb(bgr.float(), SelfSupDataPreprocessor())
    assert np.array_equal(shown, bgr.flip(1).permute(0, 2, 3, 1).numpy())


def test_to_rgb_clips_to_what_a_screen_can_show() -> None:
    images = torch.tensor([-30.0, 0.4, 0.6, 300.0]).view(1, 1, 2, 2)
    shown = to_rgb(images, SelfSupDataPreprocessor())
    assert shown[0, ..., 0].ravel().tolist() == [0, 0, 1, 255]


def test_to_rgb_one_channel_is_grey() -> None:
    grey = pixels(2, 1, 4, 6)
    preprocessor = ImgDataPreprocessor(mean=[100.0], std=[50.0])
    shown = to_rgb((grey - 100.0) / 50.0, preprocessor)
    assert shown.shape == (2, 4, 6, 3)
    for channel in range(3):
        assert np.array_equal(shown[..., channel], grey[:, 0].numpy())


def test_to_rgb_shows_the_first_three_of_many_channels() -> None:
    images = pixels(1, 5, 4, 4)
    shown = to_rgb(images.float(), SelfSupDataPreprocessor())
    assert np.array_equal(shown, images[:, :3].permute(0, 2, 3, 1).numpy())


def test_step_maps_count_from_one_in_place() -> None:
    model = tiny_saim()
    order = torch.tensor([[3, 0, 5, 1, 4, 2]])  # grid of 2 x 3
    steps = step_maps(order, model.order_sampler, (2, 3))
    assert steps.tolist() == [[[2, 4, 6], [1, 5, 3]]]


def test_step_maps_of_segments_share_steps() -> None:
    model = tiny_saim(order="segments", segment_size=(2, 1))
    order = torch.tensor([[1, 4, 2, 5, 0, 3]])  # columns 1, 2, 0 of a grid of 2 x 3
    steps = step_maps(order, model.order_sampler, (2, 3))
    assert steps.tolist() == [[[3, 1, 2], [3, 1, 2]]]


@pytest.mark.parametrize(
    ("channels", "image_size"), [(1, (8, 12)), (3, (16, 8)), (4, (8, 8))]
)
def test_sheet_is_a_picture_of_sane_size(
    channels: int, image_size: tuple[int, int]
) -> None:
    model = tiny_saim(channels=channels, image_size=image_size)
    model.train()
    sheet = reconstruction_sheet(model, tiny_images(model, 2))
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert 300 < sheet.shape[0] < 2000
    assert 1000 < sheet.shape[1] < 1400
    assert model.training  # left as it was
    assert len(np.unique(sheet @ np.array([1, 256, 65536]))) > 50  # colours


def test_sheet_of_one_image_and_no_normalisation() -> None:
    model = tiny_saim(norm_pix=False, smoothing=None)
    order = torch.arange(6)[None]
    sheet = reconstruction_sheet(model, tiny_images(model, 1), order)
    again = reconstruction_sheet(model, tiny_images(model, 1), order)
    assert np.array_equal(sheet, again)


def test_sheet_says_what_differs_from_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No smoothed column where nothing is smoothed; a word where less was read."""
    drawn: list[tuple[list[str], str]] = []
    draw = reconstruction.image_sheet

    def watched(columns: dict[str, np.ndarray], note: str, **options: Any) -> Any:
        drawn.append((list(columns), note))
        return draw(columns, note, **options)

    monkeypatch.setattr(reconstruction, "image_sheet", watched)
    part: dict[str, Any] = dict(type="FixedReading", read=2)
    for options in (dict(), dict(smoothing=None, reading=part)):
        model = tiny_saim(**options)
        reconstruction_sheet(model, tiny_images(model, 1))
    (smoothed, whole), (plain, note) = drawn
    assert len(smoothed) == 4 and plain == [smoothed[0], *smoothed[2:]]
    assert "In training" not in whole and "no more than 2 patches" in note


def test_sheet_shows_the_images() -> None:
    """Pictures are drawn in full and in their colours, originals on the left."""
    tap = dict(kernel_size=1, sigma=1.0)  # smooths nothing
    model = tiny_saim(smoothing=tap, image_size=(16, 16))
    red = torch.zeros(1, 3, 16, 16)
    red[:, 2] = 255  # BGR, as the default preprocessor leaves it
    sheet = reconstruction_sheet(model, red)
    row, column = np.nonzero((sheet == (255, 0, 0)).all(-1))
    assert len(row) > 2 * 200**2  # original and target
    assert column.min() < 60


def test_pictures_survive_the_disk(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200  # red
    path = tmp_path / "new folder" / "picture.png"
    save_png(image, path)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], image)

"""Pictures of images that are no photographs: false colours, and the title says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bands import hazy, npy_of, write_scenes
from image_files import write
from PIL import Image
from tiny import tiny_saim

from saim_mm.datasets import ChannelDataPreprocessor
from saim_mm.models import SAIM
from saim_mm.visualization import (
    keep_share,
    original_title,
    read_images,
    reconstruction_sheet,
    to_rgb,
)
from saim_mm.visualization.from_files import (
    draw_attention,
    draw_completion,
    draw_feature_maps,
    draw_predictions,
)


def bands(channels: int = 13, **options) -> ChannelDataPreprocessor:
    mean, std = [5000.0] * channels, [1000.0 + c for c in range(channels)]
    return ChannelDataPreprocessor(mean, std, **options)


@pytest.mark.parametrize(
    ("channels", "shown", "picked", "title"),
    [
        (13, [3, 2, 1], [3, 2, 1], "original (false colours:\nchannels 3, 2, 1)"),
        (13, None, [0, 1, 2], "original (false colours:\nchannels 0, 1, 2)"),
        (3, None, [0, 1, 2], "original (false colours:\nchannels 0, 1, 2)"),
        (13, [7], [7, 7, 7], "original\n(channel 7 in grey)"),
        (2, None, [0, 0, 0], "original\n(channel 0 in grey)"),
        (1, None, [0, 0, 0], "original\n(channel 0 in grey)"),
    ],
)
def test_a_picture_spans_two_deviations(
    channels: int, shown: list[int] | None, picked: list[int], title: str
) -> None:
    images = torch.randn(2, channels, 4, 6)
    preprocessor = bands(channels, shown=shown)
    got = to_rgb(images, preprocessor).astype(float)
    wanted = ((images[:, picked].permute(0, 2, 3, 1) + 2) / 4).clamp(0, 1) * 255
    np.testing.assert_allclose(got, wanted.numpy(), atol=0.51)
    assert original_title(preprocessor) == title


def test_images_of_a_folder_are_what_the_files_have(tmp_path: Path) -> None:
    values = hazy(0, 0)
    write(tmp_path / "a.npy", npy_of(values))
    images = read_images(tmp_path, (32, 32), bands())
    wanted = (values.astype(float) - 5000) / (1000 + np.arange(13))
    np.testing.assert_allclose(images[0].permute(1, 2, 0), wanted, atol=1e-4)


@pytest.fixture
def model() -> SAIM:
    saim = tiny_saim(channels=13, image_size=(32, 32), patch_size=(8, 8))
    saim.data_preprocessor = bands(shown=[3, 2, 1])
    saim.eval()
    return saim


def test_sheets_say_so(
    model: SAIM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tifffile")
    from matplotlib.axes import Axes

    titles, set_title = [], Axes.set_title
    monkeypatch.setattr(
        Axes, "set_title", lambda self, text, **o: titles.append(text)
        or set_title(self, text, **o)
    )  # fmt: skip
    folder = write_scenes(tmp_path / "scenes", 3)
    pictures = [
        draw_predictions(model, folder, 2),
        draw_feature_maps(model, folder, number=2),
        draw_attention({"SAIM": model}, folder, [(0.5, 0.5)], 2),
    ]
    assert all(picture.std() > 1 for picture in pictures)
    said = [text for text in titles if "original" in text and "smoothed" not in text]
    assert said == ["original (false colours:\nchannels 3, 2, 1)"] * 3


def test_an_animation_says_so_too(
    model: SAIM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tifffile")
    from matplotlib.figure import Figure

    texts, text = [], Figure.text
    monkeypatch.setattr(
        Figure, "text", lambda self, x, y, s, **o: texts.append(s)
        or text(self, x, y, s, **o)
    )  # fmt: skip
    folder, path = write_scenes(tmp_path / "scenes", 2), tmp_path / "way.gif"
    draw_completion(model, folder, keep_share((4, 4), 0.5), path, 2, steps=1)
    assert texts == ["original (false colours:\nchannels 3, 2, 1)"]
    with Image.open(path) as gif:
        assert gif.n_frames == 2
        assert gif.size == (2 * 192 + 4, 72 + 2 * 192 + 4)  # the title above
        heading = np.asarray(gif.convert("RGB"))[:72]
    assert heading.min() < 100 and heading[:, :20].min() == 255


def test_colours_are_called_nothing_else() -> None:
    saim = tiny_saim()
    assert original_title(saim.data_preprocessor) == "original"
    images = torch.zeros(1, 3, 8, 12)
    order = torch.arange(6)[None]
    assert reconstruction_sheet(saim, images, order).ndim == 3

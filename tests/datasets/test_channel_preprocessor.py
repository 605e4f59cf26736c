"""Normalising any number of channels, and measuring by what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bands import npy_of, scene, write_scenes
from image_files import encoded, photo, write
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from run_tool import run_tool

from saim_mm.datasets import ChannelDataPreprocessor, LoadImage
from saim_mm.datasets.channel_preprocessor import channel_statistics


def batch(inputs: Any) -> dict[str, Any]:
    return dict(inputs=inputs, data_samples=None)


TOOL = "analysis_tools.channel_statistics"


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_normalises_by_channel(channels: int) -> None:
    mean, std = list(range(10, 10 + channels)), list(range(1, 1 + channels))
    options = dict(type="ChannelDataPreprocessor", mean=mean, std=std)
    preprocessor = MODELS.build(options)
    images = torch.randn(2, channels, 4, 6)
    got = preprocessor(batch(images))["inputs"]
    views = preprocessor(batch([images, images]))["inputs"]
    assert torch.equal(views[0], got) and torch.equal(views[1], got)
    for c in range(channels):
        source = 2 - c if channels == 3 else c  # three come as BGR
        assert torch.equal(got[:, c], (images[:, source] - mean[c]) / std[c])
    assert not preprocessor.state_dict()  # as of every preprocessor of mm


def test_three_channels_are_mmpretrains() -> None:
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    ours = ChannelDataPreprocessor(mean, std)
    theirs = SelfSupDataPreprocessor(mean, std, to_rgb=True)
    images = batch(torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8))
    assert torch.equal(ours(images)["inputs"], theirs(images)["inputs"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(mean=[1, 2], std=[1]), "2 values of mean and 1 of std"),
        (dict(mean=[], std=[]), "0 values of mean"),
        (dict(mean=[1, 2], std=[1, 0]), r"channels \[1\]"),
        (dict(mean=[1, float("nan")], std=[1, 1]), r"channels \[1\]"),
        (dict(mean=[1, 2], std=[1, 1], shown=[0, 1]), "one or three of the channels"),
        (dict(mean=[1, 2], std=[1, 1], shown=[2]), "channels 0 to 1"),
    ],
)
def test_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ChannelDataPreprocessor(**options)


@pytest.mark.parametrize("channels", [1, 12])
def test_images_of_other_channels(channels: int) -> None:
    """One channel would be broadcast to all, in silence."""
    preprocessor = ChannelDataPreprocessor([0] * 13, [1] * 13)
    with pytest.raises(ValueError, match=f"images of {channels} channels"):
        preprocessor(batch(torch.zeros(2, channels, 4, 4)))


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    write_scenes(tmp_path, 6)
    write(tmp_path / "wide.npy", npy_of(scene(99, size=70)[:30]))
    write(tmp_path / "a.npy", b"broken")
    found = channel_statistics(tmp_path, 13)
    scenes = [scene(i) for i in range(6)] + [scene(99, size=70)[:30]]
    pixels = np.concatenate([image.reshape(-1, 13) for image in scenes]).astype(float)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)
    np.testing.assert_array_equal(found.low, pixels.min(0))
    np.testing.assert_array_equal(found.high, pixels.max(0))
    assert found.images == 7
    (path, reason), *more = found.broken.items()
    assert path.endswith("a.npy") and reason and not more


def test_large_values_of_a_small_spread(tmp_path: Path) -> None:
    """A mean of squares would lose it."""
    noise = np.random.default_rng(0).normal(size=(9, 9, 1))
    for i in range(3):
        write(tmp_path / f"{i}.npy", npy_of(1e6 + noise))
    found = channel_statistics(tmp_path, 1)
    wanted = (1e6 + noise).astype(np.float32).astype(float).std()
    assert found.std[0] == pytest.approx(wanted, rel=1e-6)


def test_statistics_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    """And so normalise what the loader gives."""
    path = write(tmp_path / "a.png", encoded("PNG", photo()))
    found = channel_statistics(tmp_path, 3)
    rgb = np.asarray(photo()).reshape(-1, 3)
    np.testing.assert_allclose(found.mean, rgb.mean(0))
    image = LoadImage(channels=3)(dict(img_path=str(path)))["img"]
    inputs = torch.tensor(image).permute(2, 0, 1)[None]
    preprocessor = ChannelDataPreprocessor(found.mean.tolist(), found.std.tolist())
    got = preprocessor(batch(inputs))["inputs"]
    torch.testing.assert_close(got.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)


def test_tool_prints_what_a_config_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "a.npy", npy_of(np.arange(20.0).reshape(2, 5, 2)))
    write(tmp_path / "b.npy", b"broken")
    assert run_tool(TOOL, tmp_path, "--channels", 2) == 0
    printed = capsys.readouterr().out
    scope: dict[str, Any] = {}
    exec(printed, scope)
    assert scope["data_preprocessor"] == dict(
        type="ChannelDataPreprocessor", mean=[9, 10], std=[5.74456] * 2
    )
    assert "# broken: " in printed and "b.npy" in printed
    assert re.search(r"1 images; from \[0, 1\]\n# to \[18, 19\]", printed)


def test_statistics_of_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", npy_of(np.zeros((2, 2, 5))))
    with pytest.raises(ValueError, match="none of 1 images of 4 channels loads"):
        channel_statistics(tmp_path, 4)
    with pytest.raises(ValueError, match="number=0"):
        channel_statistics(tmp_path, 5, 0)

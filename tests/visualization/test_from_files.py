"""Images of a folder, as a model reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor
from PIL import Image
from sources import write_as

from saim_mm.visualization import read_images


def test_reads_evenly_spread_images_cut_to_the_centre(tmp_path: Path) -> None:
    for i in range(5):
        pixels = np.full((8, 24, 3), 255, np.uint8)
        pixels[:, 8:16] = (10 * i, 0, 100)  # RGB, in the centre
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    preprocessor = SelfSupDataPreprocessor(mean=[1.0] * 3, std=[2.0] * 3, to_rgb=True)
    images = read_images(tmp_path, (8, 8), preprocessor, 3)
    assert images.shape == (3, 3, 8, 8)
    red = images[:, 0, 4, 4] * 2 + 1
    assert red.tolist() == [0, 20, 40]
    assert torch.equal(read_images(tmp_path, (8, 8), preprocessor)[::2], images)
    shards = write_as("WebDatasetImages", tmp_path, tmp_path.with_name("shards"))
    assert torch.equal(read_images(shards, (8, 8), preprocessor, 3), images)
    with pytest.raises(ValueError, match="number=0"):
        read_images(tmp_path, (8, 8), preprocessor, 0)
    with pytest.raises(FileNotFoundError):
        read_images(tmp_path / "none", (8, 8), preprocessor)

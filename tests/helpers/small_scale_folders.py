"""A folder of images for the small-scale suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(root: Path, classes: int = 2, train: int = 15, test: int = 10) -> Path:
    """Classes of one colour each, of images that can be told apart."""
    rng = np.random.default_rng(0)
    for folder, number in (("train", train), ("test", test)):
        for label in range(classes):
            path = root / folder / f"class{label}"
            path.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(path / f"{i:02}.png")
    return root

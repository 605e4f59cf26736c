"""Unlabelled images: where they lie, how they load, what happens to broken ones."""

from __future__ import annotations

from saim_mm.datasets.synthetic_images import SyntheticImages
from saim_mm.datasets.unlabeled_images import (
    BrokenImageError,
    LoadImage,
    TooManyBrokenImages,
    UnlabeledImages,
)

__all__ = [
    "BrokenImageError",
    "LoadImage",
    "SyntheticImages",
    "TooManyBrokenImages",
    "UnlabeledImages",
]

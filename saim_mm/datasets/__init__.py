"""Unlabelled images: where they lie, how they load, what happens to broken ones."""

from __future__ import annotations

from .check_labels import CheckLabels
from .image_files import IMAGE_SUFFIXES, list_images
from .load_image import BrokenImageError, LoadImage
from .synthetic_images import SyntheticImages
from .unlabeled_images import TooManyBrokenImages, UnlabeledImages

__all__ = [
    "IMAGE_SUFFIXES",
    "CheckLabels",
    "BrokenImageError",
    "LoadImage",
    "SyntheticImages",
    "TooManyBrokenImages",
    "UnlabeledImages",
    "list_images",
]

"""Unlabelled images: where they lie, how they load, what happens to broken ones."""

from __future__ import annotations

from ..utils.sample_index import SampleIndex
from .channel_preprocessor import ChannelDataPreprocessor
from .check_labels import CheckLabels
from .class_folders import ImageNetPart
from .exact_sampler import ExactSampler, SeedSample, stack_samples
from .hugging_face_images import HuggingFaceImages
from .image_files import IMAGE_SUFFIXES, list_images
from .load_image import BrokenImageError, LoadImage
from .load_random_crop import LoadRandomResizedCrop
from .packed_images import PackedImages
from .synthetic_images import SyntheticImages, without_files
from .unlabeled_images import TooManyBrokenImages, UnlabeledImages
from .webdataset_images import WebDatasetImages

__all__ = [
    "IMAGE_SUFFIXES",
    "ChannelDataPreprocessor",
    "CheckLabels",
    "BrokenImageError",
    "ExactSampler",
    "HuggingFaceImages",
    "ImageNetPart",
    "LoadImage",
    "LoadRandomResizedCrop",
    "PackedImages",
    "SampleIndex",
    "SeedSample",
    "SyntheticImages",
    "TooManyBrokenImages",
    "UnlabeledImages",
    "WebDatasetImages",
    "list_images",
    "stack_samples",
    "without_files",
]

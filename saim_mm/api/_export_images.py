"""Images that an exported encoder is certified on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import Tensor

from ..datasets import ChannelDataPreprocessor
from ..datasets.channel_preprocessor import are_colours
from ..datasets.image_files import list_images, suffixes_of
from ..datasets.sample_photos import sample_photos
from ..evaluation.frozen_encoder import FrozenEncoder
from ..evaluation.image_transform import ImageTransform
from ..parity.export_certificate import Size

#: So many are compared.
IMAGES = 3


def export_images(
    encoder: FrozenEncoder, folder: str | Path | None, sizes: list[Size]
) -> tuple[dict[Size, tuple[Tensor, Tensor]], str]:
    """The same images in several sizes.

    Args:
        encoder: What they are normalised for.
        folder: Holds images. By default sample photographs of scikit-image and
            scikit-learn or, without these or with other channels than colours, noise.
        sizes: Rows and columns, in pixels.

    Returns:
        For each size, what the file wants and what the encoder does, both
        (B, C, H, W); and which images these are.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If it holds no image, or one that does not load.
    """
    channels = encoder.backbone.patch_embed.projection.in_channels
    colours = are_colours(channels, encoder.preprocessor)
    if not colours and folder is None:
        noise = {size: _noise(encoder, channels, size) for size in sizes}
        return noise, f"{IMAGES} of noise, as the encoder has {channels} channels"
    images, described = _find(folder, suffixes_of(encoder.loaded_channels))
    plain = SelfSupDataPreprocessor(mean=None, std=None, to_rgb=True)
    if not colours:
        plain = ChannelDataPreprocessor([0] * channels, [1] * channels)
    pairs = {}
    for size in sizes:
        given = ImageTransform(size, plain, crop_ratio=1)(images).float()
        normalised = ImageTransform(size, encoder.preprocessor, crop_ratio=1)(images)
        pairs[size] = (given / 255 if colours else given, normalised)
    return pairs, described


def _find(
    folder: str | Path | None, suffixes: tuple[str, ...]
) -> tuple[list[Any], str]:
    """Some images and a description of them."""
    if folder is not None:
        names, _ = list_images(str(folder), suffixes)
        if not names:
            raise ValueError(f"images={folder}: the folder holds no image.")
        chosen = _spread([str(Path(folder) / name) for name in names])
        return chosen, f"{len(set(chosen))} of the {len(names)} in the given folder"
    try:
        photos = _spread([str(photo) for photo in sample_photos()])
        return photos, f"{IMAGES} sample photographs of scikit-image and scikit-learn"
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (IMAGES, 256, 256, 3), dtype=np.uint8)
        return list(noise), f"{IMAGES} of noise, as scikit-image is not installed"


def _spread(paths: list[str]) -> list[str]:
    """So many, evenly spread; some twice, if there are fewer."""
    places = np.linspace(0, len(paths) - 1, IMAGES).round().astype(int)
    return [paths[place] for place in places.tolist()]


def _noise(encoder: FrozenEncoder, channels: int, size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normalised = torch.randn(IMAGES, channels, *size, generator=generator)
    mean, std = (
        getattr(encoder.preprocessor, name, torch.tensor(float(name == "std"))).cpu()
        for name in ("mean", "std")
    )
    return normalised * std + mean, normalised

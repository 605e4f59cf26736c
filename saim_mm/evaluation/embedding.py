"""Features of the images of a folder, part by part, in the order of their names.

Symbols: N images, n of them in a part, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..datasets import BrokenImageError, UnlabeledImages
from ..datasets.data_kinds import kind_of_data
from ..datasets.fixed_view import fixed_view
from ..datasets.image_files import suffixes_of
from .features import FeatureExtractor


@dataclass(frozen=True)
class Rows:
    """What became of the images ``first`` to ``stop - 1``, by their sorted names.

    Attributes:
        first: The first image.
        stop: One after the last.
        kept: Numbers of the images that load (n,), rising.
        features: (n, D) float32.
        sizes: Rows and columns of the images as they lie on disk (n, 2) int32.
        broken: Number of an image that does not load -> why.
    """

    first: int
    stop: int
    kept: np.ndarray
    features: np.ndarray
    sizes: np.ndarray
    broken: dict[int, str]


def join(parts: Sequence[Rows]) -> Rows:
    """Neighbours as one."""
    return Rows(
        first=parts[0].first,
        stop=parts[-1].stop,
        kept=np.concatenate([part.kept for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        broken={number: why for part in parts for number, why in part.broken.items()},
    )


def find_images(
    folder: str,
    size: tuple[int, int],
    crop_ratio: float,
    max_broken_share: float,
    channels: int | None = None,
) -> UnlabeledImages:
    """All images below a folder, as an encoder of such channels looks at them."""
    return kind_of_data(folder)(
        folder,
        pipeline=fixed_view(size, crop_ratio, channels),
        extensions=suffixes_of(channels),
        max_broken_share=max_broken_share,
        test_mode=True,
    )


def embed_images(
    extractor: FeatureExtractor,
    images: UnlabeledImages,
    first: int = 0,
    batch_size: int = 128,
    workers: int = 0,
) -> Iterator[Rows]:
    """Runs an encoder over images, a batch at a time.

    Args:
        extractor: The encoder.
        images: From :func:`find_images`.
        first: The image to begin with.
        batch_size: Images per forward.
        workers: Processes that load images.
    """
    loader = DataLoader(
        Subset(_OrWhyNot(images), range(first, len(images))),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # without it, one would be seeded by a draw
    )
    for views in loader:
        loaded = [n for n, view in enumerate(views) if not view.why_not]
        kept = [views[n] for n in loaded]
        features = np.empty((0, extractor.backbone.embed_dims), np.float32)
        if kept:
            pixels = torch.stack([view.pixels for view in kept])
            features = extractor.vectors_of(dict(inputs=pixels)).cpu().numpy()
        yield Rows(
            first=first,
            stop=first + len(views),
            kept=np.array(loaded, np.int64) + first,
            features=features,
            sizes=np.array([view.size for view in kept], np.int32).reshape(-1, 2),
            broken={first + n: v.why_not for n, v in enumerate(views) if v.why_not},
        )
        first += len(views)


class _View(NamedTuple):
    """An image, or why it does not load; ``pixels`` are (C, H, W)."""

    pixels: Tensor
    size: tuple[int, int]
    why_not: str


class _OrWhyNot(Dataset):
    def __init__(self, images: UnlabeledImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> _View:
        try:
            item: dict[str, Any] = self.images[idx]
        except BrokenImageError as error:
            return _View(torch.empty(0), (0, 0), error.reason)
        return _View(item["inputs"], item["data_samples"].ori_shape, "")

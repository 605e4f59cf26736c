"""Mean and standard deviation of each channel, measured on the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .image_files import suffixes_of
from .load_image import BrokenImageError, LoadImage
from .unlabeled_images import UnlabeledImages


@dataclass(frozen=True)
class ChannelStatistics:
    """What was measured, by channel in the order of the files.

    Attributes:
        mean: (C,), over all pixels.
        std: (C,).
        low: (C,), the least value.
        high: (C,), the largest.
        images: Number of images that were read.
        broken: What is wrong with each of the others, by its path.
    """

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int
    broken: dict[str, str]


def channel_statistics(
    folder: str | Path, channels: int, number: int | None = 1000
) -> ChannelStatistics:
    """Measures the images of a folder, nested or flat.

    Args:
        folder: Where they lie.
        channels: Number of channels C.
        number: At most so many images, evenly spread over the sorted names; ``None``
            for all.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image that loads, or the number is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f"number={number} of images must be at least 1.")
    dataset = UnlabeledImages(
        str(folder),
        pipeline=[LoadImage(channels=channels)],
        extensions=suffixes_of(channels),
        test_mode=True,
    )
    count = len(dataset) if number is None else min(number, len(dataset))
    found, broken = [], {}
    for i in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        try:
            found.append(_measure(dataset[i]["img"]))
        except BrokenImageError as error:
            broken[dataset.get_data_info(i)["img_path"]] = error.reason
    if not found:
        path, reason = next(iter(broken.items()))
        raise ValueError(
            f"none of {count} images of {channels} channels loads; the first is "
            f"{path!r}: {reason}"
        )
    pixels, mean, square, low, high = map(np.stack, zip(*found, strict=True))
    weight = (pixels / pixels.sum())[:, None]
    total = (weight * mean).sum(0)
    # The squares are about each image's own mean, or large values would lose them.
    variance = (weight * (square + (mean - total) ** 2)).sum(0)
    order = slice(None, None, -1) if channels == 3 else slice(None)  # of the file
    return ChannelStatistics(
        mean=total[order],
        std=np.sqrt(variance)[order],
        low=low.min(0)[order],
        high=high.max(0)[order],
        images=len(found),
        broken=broken,
    )


def _measure(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Number of pixels, and mean, variance, least and largest of each channel."""
    values = image.reshape(-1, image.shape[2]).astype(np.float64)
    return (
        np.array(len(values)),
        values.mean(0),
        values.var(0),
        values.min(0),
        values.max(0),
    )

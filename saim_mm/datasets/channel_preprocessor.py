"""Images of any number of channels: normalised, shown, and measured for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.utils import SelfSupDataPreprocessor

from ..registry import register
from .image_files import suffixes_of
from .load_image import BrokenImageError, LoadImage
from .unlabeled_images import UnlabeledImages


@register("model")
class ChannelDataPreprocessor(SelfSupDataPreprocessor):
    """mmpretrain's ``SelfSupDataPreprocessor`` for C channels of any range.

    It goes with ``channels=C`` of :class:`LoadImage` and
    :class:`LoadRandomResizedCrop`. ``tools/analysis_tools/channel_statistics.py``
    measures what it needs.

    Args:
        mean: Mean of each channel, in the order of the files.
        std: Standard deviation of each channel.
        shown: Channels, counted from 0, that pictures show as red, green and blue; or
            one of them, in grey. By default the first three, or the only one. What
            pictures show of a channel is its mean and two deviations to both sides.

    Attributes:
        channels: C.
        shown: As given, or the default.

    Raises:
        ValueError: If the numbers do not fit each other, or a deviation is no
            positive number.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        shown: Sequence[int] | None = None,
    ) -> None:
        # Three channels come as BGR, and go back to the order of the files.
        super().__init__(to_rgb=len(mean) == 3)
        if len(mean) != len(std) or not len(mean):
            raise ValueError(
                f"{len(mean)} values of mean and {len(std)} of std; give one of each "
                "for every channel"
            )
        bad = [i for i, (m, s) in enumerate(zip(mean, std, strict=True))
               if not (math.isfinite(m) and 0 < s < math.inf)]  # fmt: skip
        if bad:
            raise ValueError(
                f"mean and std of channels {bad}: a mean must be finite and a "
                "deviation positive; drop channels that are the same everywhere, or "
                "give them std=1"
            )
        self.channels = len(mean)
        if shown is None:
            shown = range(3) if self.channels >= 3 else range(1)
        self.shown = tuple(shown)
        known = set(self.shown) <= set(range(self.channels))
        if len(self.shown) not in (1, 3) or not known:
            raise ValueError(
                f"shown={shown} must be one or three of the channels 0 to "
                f"{self.channels - 1}"
            )
        # As the base class does it for one value and for three, which it insists on.
        self._enable_normalize = True
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalises ``inputs``: (B, C, H, W), or a list of them, the views.

        Raises:
            ValueError: If they have another number of channels.
        """
        views = data["inputs"]
        for images in views if isinstance(views, list) else [views]:
            if images.shape[1] != self.channels:
                raise ValueError(
                    f"images of {images.shape[1]} channels, and mean and std of "
                    f"{self.channels}; channels of the transform that loads them and "
                    "the numbers of the data_preprocessor must agree"
                )
        return super().forward(data, training)


def are_colours(channels: int, preprocessor: BaseDataPreprocessor) -> bool:
    """Whether images of so many channels are photographs, in RGB or BGR of 8 bits."""
    return channels == 3 and channels_of(preprocessor) is None


def channels_of(preprocessor: BaseDataPreprocessor) -> int | None:
    """Number of channels that a loader must be told of; none for photographs."""
    return getattr(preprocessor, "channels", None)


@dataclass(frozen=True)
class ChannelStatistics:
    """What was measured over all pixels, by channel (C,) in the order of the files.

    Attributes:
        mean: And ``std``, ``low`` and ``high``, the least and the largest value.
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
            values = dataset[i]["img"].reshape(-1, channels).astype(np.float64)
        except BrokenImageError as error:
            broken[dataset.get_data_info(i)["img_path"]] = error.reason
            continue
        of_each = values.mean(0), values.var(0), values.min(0), values.max(0)
        found.append((np.array(len(values)), *of_each))
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
    measured = total, np.sqrt(variance), low.min(0), high.max(0)
    mean, std, low, high = (values[order] for values in measured)
    return ChannelStatistics(mean, std, low, high, len(found), broken)

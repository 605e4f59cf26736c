"""Some images of a folder, as a model reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.dataset import default_collate
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from ..datasets.channel_preprocessor import channels_of
from ..datasets.data_kinds import kind_of_data
from ..datasets.fixed_view import fixed_view
from ..datasets.image_files import suffixes_of


def read_images(
    folder: str | Path,
    size: tuple[int, int],
    preprocessor: BaseDataPreprocessor,
    number: int | None = None,
) -> Tensor:
    """Reads images, cut to the centre; the same ones every time.

    Args:
        folder: Holds images, nested or flat, or whatever :func:`kind_of_data` knows.
        size: Rows and columns of the result, in pixels.
        preprocessor: What normalises them.
        number: At most so many, evenly spread over the sorted names; by default all.

    Returns:
        (B, C, H, W), on the device of the preprocessor.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image, or the number is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f"number={number} of images must be at least 1.")
    channels = channels_of(preprocessor)
    dataset = kind_of_data(folder)(
        str(folder),
        pipeline=fixed_view(size, 1, channels),
        extensions=suffixes_of(channels),
    )
    rows = len(dataset) if number is None else min(number, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, rows).round().astype(int)
    batch = default_collate([dataset[i] for i in chosen.tolist()])
    return preprocessor(batch)["inputs"]

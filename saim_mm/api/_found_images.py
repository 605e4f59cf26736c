"""What lies in a folder of data, as far as the rule of the verbs needs it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..datasets import UnlabeledImages
from ..datasets.data_kinds import kind_of_data
from ..datasets.load_image import LoadImage
from ..datasets.sample_photos import NoPhotosError, find_photos
from ..utils.command_line import counted
from ._rule import LEAST

#: Images that are opened.
_SAMPLE = 64


class Found(NamedTuple):
    """A dataset's name, the number of images, their typical shorter side in pixels."""

    kind: str
    number: int
    side: int


def count_images(folder: str | Path, **options: Any) -> Found:
    """Counts the images of a folder, a pack, shards or a dataset, and opens some.

    ``options`` are those of the dataset that reads what is no folder of images.

    Raises:
        NoPhotosError: If there is no such folder, or too few images that load.
        ValueError: If it is of a kind that cannot be used as it is.
        ImportError: If a library is missing.
    """
    kind = kind_of_data(folder)
    paths: Sequence[str | Path]
    if kind is UnlabeledImages:
        paths, total = find_photos(folder, _SAMPLE)
    else:
        images = kind(str(folder), **options)
        total = len(images)
        chosen = random.Random(0).sample(range(total), min(_SAMPLE, total))
        paths = [images.get_data_info(index)["img_path"] for index in chosen]
    side = typical_side(paths)
    if total < LEAST:
        raise NoPhotosError(
            f"{str(folder)!r} holds {counted(total, 'image')}; give at least {LEAST}, "
            "and some thousands to learn what holds for others"
        )
    return Found(kind.__name__, total, side)


def typical_side(paths: Sequence[str | Path]) -> int:
    """The median of the shorter sides of some of the images, in pixels.

    Raises:
        NoPhotosError: If none of them loads.
    """
    chosen = random.Random(0).sample(list(paths), min(_SAMPLE, len(paths)))
    load, sides, problems = LoadImage(), [], []
    for path in chosen:
        try:
            sides.append(min(load(dict(img_path=str(path)))["img"].shape[:2]))
        except Exception as error:  # a decoder may raise anything for a bad file
            problems.append(str(error))
    if not sides:
        raise NoPhotosError(
            f"none of {counted(len(chosen), 'image')} can be read; the first is "
            f"{problems[0]}"
        )
    return int(median(sides))

"""What lies in a folder of images, as far as the rule of the verbs needs it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ..datasets.load_image import LoadImage
from ..datasets.small_photos import NoPhotosError, find_photos
from ._rule import LEAST

#: Images that are opened.
_SAMPLE = 64


def count_images(folder: str | Path) -> tuple[int, int]:
    """Counts the images of a folder, nested or flat, and opens some.

    Returns:
        Their number, and the median of their shorter sides in pixels.

    Raises:
        NoPhotosError: If there is no such folder, or too few images that load.
    """
    paths, total = find_photos(folder, _SAMPLE)
    side = typical_side(paths)
    if total < LEAST:
        raise NoPhotosError(
            f"{str(folder)!r} holds {total} images; give at least {LEAST}, and some "
            "thousands to learn what holds for others"
        )
    return total, side


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
            f"none of {len(chosen)} images can be read; the first is {problems[0]}"
        )
    return int(median(sides))

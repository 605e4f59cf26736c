"""Photographs for demos and benchmarks: samples, and small copies of a user's own."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from .image_files import (
    IMAGE_SUFFIXES,
    describe_left_out,
    list_images,
    warn_of_left_out,
)
from .load_image import LoadImage

#: Package -> folder and photographs in its wheel. Drawings, scans, medical images and
#: the right eye of a stereo pair are left out.
SAMPLES = {
    "skimage": (
        "data",
        "astronaut.png brick.png chelsea.png coins.png coffee.png moon.png "
        "motorcycle_left.png camera.png rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
#: Shorter side of a copy in pixels. Decoding a camera's 12 megapixels for every crop of
#: 64 pixels would take longer than training on it.
PHOTO_SIZE = 256


def sample_photos() -> list[Path]:
    """The sample photographs in the installed wheels, found without importing them.

    Raises:
        FileNotFoundError: If neither package is installed.
    """
    photos = []
    for package, (folder, names) in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or ():
            files = [Path(root) / folder / name for name in names.split()]
            photos += [file for file in files if file.is_file()]
    if not photos:
        raise FileNotFoundError(
            "no sample photographs: pip install scikit-image scikit-learn"
        )
    return photos


class NoPhotosError(ValueError):
    """There is no photograph to use; the message is one line."""


def find_photos(folder: str | Path, limit: int) -> tuple[list[Path], int]:
    """Finds the images of a folder; of more than ``limit`` some, always the same.

    Returns them, sorted, and how many there are in all.

    Raises:
        NoPhotosError: If the folder does not exist or holds no image.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise NoPhotosError(f"{str(folder)!r} {state}; give a folder of images")
    names, others = list_images(str(root))
    if not names:
        raise NoPhotosError(
            f"{str(folder)!r} holds no images; {describe_left_out(others)}; looked "
            f"for {' '.join(IMAGE_SUFFIXES)} at any depth"
        )
    warn_of_left_out(str(folder), len(names), others)
    total = len(names)
    if total > limit:
        names = sorted(random.Random(0).sample(names, limit))
    return [root / name for name in names], total


def copy_small(sources: Sequence[Path], folder: Path) -> list[str]:
    """Writes a small JPEG of every photograph into a new folder, numbered as they are.

    Returns what is wrong with each that cannot be read, and has no copy.

    Raises:
        NoPhotosError: If none of them can be read.
    """
    folder.mkdir()
    # The names in nested folders may repeat, or be too long; the number is unique.
    targets = [folder / f"{i:04d}_{s.stem[:40]}.jpg" for i, s in enumerate(sources)]
    with ThreadPoolExecutor() as pool:
        problems = [p for p in pool.map(_copy_one, sources, targets) if p]
    if len(problems) == len(sources):
        raise NoPhotosError(
            f"none of the {len(sources)} images can be read; the first is {problems[0]}"
        )
    return problems


def _copy_one(source: Path, target: Path) -> str | None:
    """Copies one photograph; returns what is wrong with it, if anything is."""
    try:
        image = LoadImage()(dict(img_path=str(source)))["img"]
    except Exception as error:  # a decoder may raise anything for a bad file
        reason = getattr(error, "reason", None) or str(error).strip().split("\n")[0]
        return f"{str(source)!r}: {reason}"
    scale = min(1.0, PHOTO_SIZE / min(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    target.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return None

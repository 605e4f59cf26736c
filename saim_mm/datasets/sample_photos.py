"""Photographs that are on many machines already, for demos and benchmarks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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

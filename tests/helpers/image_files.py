"""Image files for tests, whole and broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saim_mm.datasets import UnlabeledImages

LOAD = [dict(type="LoadImage")]


def photo(height: int = 24, width: int = 32, seed: int = 0) -> Image.Image:
    """A smooth picture, so that JPEG keeps it nearly unchanged."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(
    format_: str = "JPEG", image: Image.Image | None = None, **options
) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, format_, **options)
    return buffer.getvalue()


def write(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if content is None else content)
    return path


def folder_with_broken(root: Path, total: int, broken: set[int]) -> Path:
    """Image i is a 1 x (i + 1) PNG, so that its width tells which one it is."""
    for i in range(total):
        whole = encoded("PNG", photo(1, i + 1, seed=i))
        write(root / f"{i:03d}.png", b"<html></html>" if i in broken else whole)
    return root


def names(dataset: UnlabeledImages) -> list[str]:
    root = Path(dataset.img_prefix)
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    return [Path(path).relative_to(root).as_posix() for path in paths]


def width(sample: dict[str, Any]) -> int:
    return sample["img_shape"][1]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message

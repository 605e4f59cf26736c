"""Which patches of an image are kept: by a box, a share, or a drawn mask.

Every function returns (rows, columns) of the patch grid, bool, ``True`` where a patch
is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: Left, top, right and bottom as shares of width and height, in [0, 1].
Box = tuple[float, float, float, float]


def keep_box(grid: tuple[int, int], box: Box) -> Tensor:
    """Keeps the patches whose centre lies in a box.

    Raises:
        ValueError: If the box is empty or leaves the image.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"box {box} must be left, top, right, bottom with 0 <= left < right <= 1 "
            "and 0 <= top < bottom <= 1; 0,0,1,0.5 is the upper half."
        )
    x = (torch.arange(grid[1]) + 0.5) / grid[1]
    y = (torch.arange(grid[0]) + 0.5) / grid[0]
    return ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))


def keep_share(grid: tuple[int, int], share: float, seed: int = 0) -> Tensor:
    """Keeps a share of the patches, drawn at random.

    Raises:
        ValueError: If the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share} of kept patches must be in [0, 1).")
    number = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    kept = torch.zeros(number, dtype=torch.bool)
    kept[torch.randperm(number, generator=generator)[: round(share * number)]] = True
    return kept.view(grid)


def keep_drawn(grid: tuple[int, int], path: str | Path) -> Tensor:
    """Keeps what is bright in an image, which is stretched over the grid.

    A patch is kept if the mean grey value over it is at least half of white.

    Raises:
        OSError: If the file is missing or no image.
    """
    with Image.open(path) as image:
        grey = image.convert("L").resize((grid[1], grid[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(grey) >= 128)

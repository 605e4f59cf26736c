"""Images as they are looked at in testing: resized, cut to the centre, packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmcv.transforms import CenterCrop
from mmpretrain.datasets.transforms import PackInputs, ResizeEdge


def fixed_view(
    size: tuple[int, int], crop_ratio: float = 224 / 256
) -> list[Callable[..., Any]]:
    """The transforms that follow the loader, as in ``in1k_test_224.py``.

    Args:
        size: Rows and columns after the crop, in pixels.
        crop_ratio: Share of the resized image's short edge that the crop keeps; 224 of
            256, the usual one for ImageNet, by default. 1 crops nothing of a square.

    Raises:
        ValueError: If the ratio is not in (0, 1].
    """
    if not 0 < crop_ratio <= 1:
        raise ValueError(
            f"crop_ratio={crop_ratio} must be in (0, 1]; 0.875 is usual, and 1 "
            "keeps a square image whole."
        )
    edge = round(max(size) / crop_ratio)
    return [
        ResizeEdge(edge, "short", "pillow", interpolation="bicubic"),
        CenterCrop(crop_size=(size[1], size[0])),  # (width, height)
        PackInputs(),
    ]

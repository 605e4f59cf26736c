"""Images as they are looked at in testing: resized, cut to the centre, packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mmcv.transforms import CenterCrop
from mmpretrain.datasets.transforms import PackInputs, ResizeEdge

from .load_image import LoadImage
from .load_random_crop import resize_bicubic


def fixed_view(
    size: tuple[int, int], crop_ratio: float = 224 / 256, channels: int | None = None
) -> list[Callable[..., Any]]:
    """The transforms of ``in1k_test_224.py``, loader included.

    Args:
        size: Rows and columns after the crop, in pixels.
        crop_ratio: Share of the resized image's short edge that the crop keeps; 224 of
            256, the usual one for ImageNet, by default. 1 crops nothing of a square.
        channels: As for :class:`LoadImage`.

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
        LoadImage(channels=channels),
        _ResizeEdge(edge, "short", "pillow", interpolation="bicubic"),
        CenterCrop(crop_size=(size[1], size[0])),  # (width, height)
        PackInputs(),
    ]


class _ResizeEdge(ResizeEdge):
    """Resizes what Pillow cannot, with a filter that is that of Pillow."""

    def _resize_img(self, results: dict[str, Any]) -> None:
        image = results["img"]
        if image.dtype == np.uint8:
            super()._resize_img(results)
            return
        width, height = results["scale"]
        resized = resize_bicubic(image, (height, width)).permute(1, 2, 0).numpy()
        results["img"] = resized
        results["img_shape"] = resized.shape[:2]
        results["scale_factor"] = (width / image.shape[1], height / image.shape[0])

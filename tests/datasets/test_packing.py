"""What packing offers besides the tool, which tests/tools/test_pack_images.py runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saim_mm.datasets.packing import PackOptions, psnr


def test_psnr() -> None:
    image = np.full((4, 5, 3), 200, np.uint8)
    assert psnr(image, image) == 99
    assert psnr(image, image - 255 // 5) == pytest.approx(20 * np.log10(5))
    assert psnr(image, image + 51) == psnr(image + 51, image)  # nothing wraps around


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(images_per_shard=0), "images_per_shard=0"),
        (dict(short_side=0), "short_side=0"),
        (dict(quality=90), "quality=90 is for short_side"),
        (dict(short_side=9, quality=0), "quality=0 must be from 1 to 100"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackOptions(**options)
    assert PackOptions(short_side=9).quality == 95

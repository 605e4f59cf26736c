"""mmseg's pyramid; needs mmseg, so a config names it in ``custom_imports``."""

from __future__ import annotations

from typing import Any

from mmseg.models.necks import Feature2Pyramid

from ...registry import register
from .vit_pyramid import Downsample


@register("model")
class AnySizeFeature2Pyramid(Feature2Pyramid):
    """``Feature2Pyramid`` for maps of one row or column too; else it is the same.

    Args:
        *args: As for ``Feature2Pyramid``.
        **kwargs: As for ``Feature2Pyramid``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, factor in (("downsample_2x", 2), ("downsample_4x", 4)):
            if hasattr(self, name):
                setattr(self, name, Downsample(factor))

"""mmseg's pyramid, for images of any size.

Not imported with the package, as it needs mmseg: a config names the module in
``custom_imports``.
"""

from __future__ import annotations

from typing import Any

from mmseg.models.necks import Feature2Pyramid

from ...registry import register
from .vit_pyramid import Downsample


@register("model")
class AnySizeFeature2Pyramid(Feature2Pyramid):
    """``Feature2Pyramid`` that takes maps of one row or column too.

    Keys of the state dict and numbers are the same; mmseg's stops there with "output
    size is too small".

    Args:
        *args: As for ``Feature2Pyramid``.
        **kwargs: As for ``Feature2Pyramid``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, factor in (("downsample_2x", 2), ("downsample_4x", 4)):
            if hasattr(self, name):
                setattr(self, name, Downsample(factor))

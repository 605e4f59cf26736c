"""A part of the training images, the others held out to choose by."""

from __future__ import annotations

from typing import Any

from mmpretrain.datasets import ImageNet

from ..registry import register


@register("dataset")
class ImageNetPart(ImageNet):
    """mmpretrain's ``ImageNet`` without every so-manieth image, or of these alone.

    They are taken in the order of the folders, and so evenly of each class.

    Args:
        every: How many images there are to each that is held out.
        held_out: Whether these are those that are held out.
        **kwargs: As for ``ImageNet``.

    Raises:
        ValueError: If ``every`` is less than 2.
    """

    def __init__(self, every: int = 50, held_out: bool = False, **kwargs: Any) -> None:
        if every < 2:
            raise ValueError(f"every={every} must be at least 2, or nothing is left.")
        self.every, self.held_out = every, held_out
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Those that are, or are not, at multiples of ``every``."""
        return [
            image
            for index, image in enumerate(super().load_data_list())
            if (index % self.every == 0) == self.held_out
        ]

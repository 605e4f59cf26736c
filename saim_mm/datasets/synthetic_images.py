"""Made-up images, for debugging and benchmarks that must not wait for a disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from ..registry import register

#: Options of ``LoadRandomResizedCrop`` that are not about the file.
_CROP = ("scale", "crop_ratio_range", "aspect_ratio_range", "max_attempts")


def without_files(pipeline: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transforms of a config's pipeline, for images that need no loader.

    Those that only load are left out; of ``LoadRandomResizedCrop`` crop and flip stay.
    """
    kept: list[dict[str, Any]] = []
    for transform in pipeline:
        if transform["type"] == "LoadRandomResizedCrop":
            crop = {name: transform[name] for name in _CROP if name in transform}
            crop |= dict(backend="pillow", interpolation="bicubic")
            flip = dict(type="RandomFlip", prob=transform.get("flip_prob", 0.0))
            kept += [dict(type="RandomResizedCrop", **crop), flip]
        elif not transform["type"].startswith("LoadImage"):
            kept.append(dict(transform))
    return kept


@register("dataset")
class SyntheticImages(BaseDataset):
    """Smooth random colour patterns, the same ones on every machine.

    Image ``i`` is a function of ``seed`` and ``i`` alone: a sum of a few plane waves
    per channel, so that a patch can be told from its surroundings.

    Args:
        num_images: Length of the dataset.
        size: Height and width, in pixels.
        seed: Seed of the patterns.
        pipeline: Transforms; they find the image under ``img`` and need no loader.

    Raises:
        ValueError: If the length or the size is not positive.
    """

    def __init__(
        self,
        num_images: int = 1024,
        size: tuple[int, int] = (224, 224),
        seed: int = 0,
        pipeline: Sequence[Any] = (),
    ) -> None:
        if num_images < 1 or min(size) < 1:
            raise ValueError(
                f"SyntheticImages num_images={num_images}, size={tuple(size)}: both "
                "must be positive."
            )
        self.num_images = num_images
        self.size = tuple(size)
        self.seed = seed
        super().__init__(pipeline=list(pipeline), serialize_data=False)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per image; its pixels are made when it is asked for."""
        return [dict(img_path=f"synthetic/{i}.png") for i in range(self.num_images)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The entry of an image, with its pixels (H, W, 3) uint8 under ``img``."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng((self.seed, info["sample_idx"]))
        rows = np.linspace(0, 1, self.size[0])[:, None, None, None]
        columns = np.linspace(0, 1, self.size[1])[None, :, None, None]
        shape = (1, 1, 3, 3)  # of three channels, three waves each
        frequency_y, frequency_x = rng.normal(0, 5, (2, *shape))
        phase = rng.uniform(0, 2 * np.pi, shape)
        waves = np.sin(frequency_y * rows + frequency_x * columns + phase)
        info["img"] = (127.5 + 127.5 * waves.mean(-1)).astype(np.uint8)
        info["img_shape"] = info["ori_shape"] = self.size
        return info

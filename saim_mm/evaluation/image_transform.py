"""From images as people hold them to what an encoder reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseDataPreprocessor
from PIL import Image, ImageOps
from torch import Tensor

from ..datasets.channel_image import as_channels
from ..datasets.channel_preprocessor import channels_of
from ..datasets.fixed_view import fixed_view

#: A file, an image of Pillow, (H, W, 3) uint8, or a tensor (3, H, W), uint8 or float in
#: [0, 1]. Arrays and tensors are RGB. For an encoder of given channels they are
#: (H, W, C) and (C, H, W), of the values that a file would have.
AnyImage: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor


class ImageTransform:
    """Resizes, crops and normalises images, as the recipes of evaluation do.

    Args:
        size: Rows and columns that the encoder reads, in pixels.
        preprocessor: What normalises; the result lies on its device.
        crop_ratio: As for :func:`saim_mm.datasets.fixed_view.fixed_view`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        preprocessor: BaseDataPreprocessor,
        crop_ratio: float = 224 / 256,
    ) -> None:
        self.preprocessor = preprocessor
        self._channels = channels_of(preprocessor)
        self._view = Compose(fixed_view(size, crop_ratio, self._channels))

    def __call__(self, images: AnyImage | Iterable[AnyImage]) -> Tensor:
        """Makes a batch of an image, or of several in a list or a 4-D array.

        Returns:
            Float32 (B, C, rows, columns), for ``features``.

        Raises:
            BrokenImageError: If a file is no image; a ``ValueError``.
            OSError: If a file cannot be read.
            ValueError: If something is none of the kinds of :data:`AnyImage`, or there
                is no image.
        """
        one = isinstance(images, (str, Path, Image.Image))
        if one or getattr(images, "ndim", 4) < 4:
            images = cast(list[AnyImage], [images])
        several = cast(Iterable[AnyImage], images)
        batch = [self._view(self._read(image)) for image in several]
        if not batch:
            raise ValueError("There is no image; give at least one.")
        return self.preprocessor(default_collate(batch), False)["inputs"]

    def _read(self, image: AnyImage) -> dict[str, Any]:
        """For :class:`LoadImage`: a path, or what it would make of one."""
        if isinstance(image, (str, Path)):
            return dict(img_path=str(image))
        if self._channels is not None:
            array = _with_channels(image, self._channels)
        else:
            array = _rgb(image)
        if array.shape[2] == 3:  # as any loader of OpenMMLab
            array = array[..., ::-1].copy()
        shape = array.shape[:2]
        return dict(img=array, img_shape=shape, ori_shape=shape)


def _with_channels(image: AnyImage, channels: int) -> np.ndarray:
    """(H, W, C) float32, the values as they are."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    return as_channels(np.asarray(image), channels)


def _rgb(image: AnyImage) -> np.ndarray:
    """(H, W, 3) uint8."""
    if isinstance(image, Image.Image):
        if image.mode[:1] in ("I", "F"):
            raise ValueError(
                f"An image of mode {image.mode!r} has values of more than 8 bits; give "
                "its file, or scale it to 8 bits."
            )
        array = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    elif isinstance(image, Tensor):
        array = _from_tensor(image)
    else:
        array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"An image of shape {array.shape} and type {array.dtype}; give uint8 "
            "RGB, arrays as (H, W, 3) and tensors as (3, H, W), or Pillow's images."
        )
    return array


def _from_tensor(image: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C); what is not within its range is of no use."""
    image = image.detach().cpu()
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise ValueError(
                "A float tensor with values beyond [0, 1]; give an image of [0, 1] or "
                "uint8, and what is normalised already to features, not to transform."
            )
        image = (255 * image.float()).round().to(torch.uint8)
    return image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()

"""Opening an image, and saying what is wrong with one that cannot be opened."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmcv.image.io import imread_flags
from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import LocalBackend, register_backend
from PIL import Image

from ..registry import register
from .channel_image import NPY, decode_channels, imdecode
from .image_files import read_regular
from .image_header import MAX_PIXELS, check_cost, jpeg_header, odd_tiff

#: A file may have so many bytes for each pixel that an image may have: 16 bits, RGBA.
BYTES_PER_PIXEL = 8
MAX_BYTES = MAX_PIXELS * BYTES_PER_PIXEL
#: No camera or scanner of 10, 12 or 14 bits has such a value.
_SURELY_16_BITS = 2**14


class BrokenImageError(ValueError):
    """One file cannot be loaded as an image.

    Args:
        path: The file.
        reason: What is wrong with it, in one line, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        # !r keeps odd file names (newlines, undecodable bytes) on one printable line.
        super().__init__(f"{path!r}: {reason}")
        self.reason = reason


def broken_image(error: Exception) -> str | None:
    """What is wrong with which image, if that was the reason of a loader's error.

    Torch tells that of a worker as the text of its traceback, which ends in the error.
    """
    if isinstance(error, BrokenImageError):
        return str(error)
    last = str(error).strip().rpartition("\n")[2]
    kind, _, text = last.partition(": ")
    return text if kind.rpartition(".")[2] == BrokenImageError.__name__ else None


def _lacks_jpeg_end(content: bytes) -> bool:
    """Tells whether a JPEG breaks off before its end-of-image marker.

    OpenCV up to 4.8 decodes the rest as grey, without an error; later versions miss
    some. The search is for cameras that append data of their own, and seldom runs.
    """
    if not content.startswith(b"\xff\xd8") or content.endswith(b"\xff\xd9"):
        return False
    # Skip the header: a thumbnail in it has an end marker too.
    header_end = max((end for *_, end in jpeg_header(content)), default=2)
    return content.rfind(b"\xff\xd9", header_end) < 0


@register("transform")
class LoadImage(LoadImageFromFile):
    """Loads an image and rejects files that are not wholly there.

    Like mmcv's ``LoadImageFromFile``, it sets ``img`` ((H, W, 3) uint8 in BGR with the
    default options), ``img_shape`` and ``ori_shape``, both (H, W).

    Args:
        to_float32: Give float32 instead of uint8, still in [0, 255].
        color_type: See :func:`mmcv.imfrombytes`.
        imdecode_backend: See :func:`mmcv.imfrombytes`.
        backend_args: Options of the mmengine file backend.
        max_pixels: Larger images are broken, and so are files of more than 8 bytes for
            each of so many pixels, and JPEGs of as many scans as take 16 such images.
        bit_depth: Bits of the values of 16-bit files, of which the upper 8 are taken;
            10, 12 or 14 for cameras and scanners that leave the others zero. Without,
            it is 16 where a value reaches 2**14, and other such files are broken.
        channels: Number C of channels of images that are no photographs of 8 bits.
            ``img`` is then (H, W, C) float32: the values that the file has, its
            channels in their order (but three as BGR, as everywhere in OpenMMLab).
            TIFF of any type and ``.npy`` are images too; what has another number of
            channels, or values that are not finite, is broken. By default colours of 8
            bits.

    Raises:
        ValueError: If ``max_pixels`` is not in [1, 2**30], OpenCV's own limit,
            ``bit_depth`` not in [8, 16], ``channels`` not positive, or given with an
            option that makes 8 bits or other colours of what is read.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        backend_args: dict[str, Any] | None = None,
        max_pixels: int = MAX_PIXELS,
        bit_depth: int | None = None,
        channels: int | None = None,
    ) -> None:
        if not 1 <= max_pixels <= 2**30:
            raise ValueError(
                f"max_pixels={max_pixels} must be from 1 to {2**30}, OpenCV's own "
                f"limit; {MAX_PIXELS} is the default"
            )
        if bit_depth not in (None, *range(8, 17)):
            raise ValueError(
                f"bit_depth={bit_depth!r} must be from 8 to 16, such as 12, or None "
                "to take 16 where the values need so many"
            )
        if channels is not None and channels < 1:
            raise ValueError(
                f"channels={channels!r} must be at least 1, such as 13, or None for "
                "colours of 8 bits"
            )
        eight_bits = (color_type, imdecode_backend, bit_depth)
        if channels is not None and eight_bits != ("color", "cv2", None):
            raise ValueError(
                f"channels={channels} takes values as they are; leave out color_type, "
                "imdecode_backend and bit_depth, which are for photographs"
            )
        self.max_pixels = max_pixels
        self.bit_depth = bit_depth
        self.channels = channels
        super().__init__(
            to_float32, color_type, imdecode_backend, backend_args=backend_args
        )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Loads the image at ``results["img_path"]`` into ``results``.

        An image that is there already, as mm's inferencers put it, stays as it is.

        Raises:
            BrokenImageError: If the file is empty, truncated, or no image.
            OSError: If the file cannot be read.
        """
        if "img" in results and "img_path" not in results:
            return results
        path = results["img_path"]
        image = self.decode(self.read(path), path)
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def read(self, path: str) -> bytes:
        """Returns the content of a file that can be decoded at a bounded cost.

        Raises:
            BrokenImageError: If it is empty, a JPEG that breaks off, or too large.
            OSError: If it cannot be read, or is no regular file.
        """
        backend = fileio.get_file_backend(
            path, backend_args=self.backend_args, enable_singleton=True
        )
        if isinstance(backend, LocalBackend):
            content = read_regular(path, self.max_pixels * BYTES_PER_PIXEL)
        else:
            content = backend.get(path)
        try:
            if not content:
                raise ValueError("empty file")
            # The header of .npy, which only channels asks for, cannot promise more than
            # the file holds.
            if self.channels is None or not content.startswith(NPY):
                check_cost(content, self.max_pixels)
            if _lacks_jpeg_end(content):
                raise ValueError(
                    f"truncated JPEG: no end marker in {len(content)} bytes"
                )
        except ValueError as error:
            raise BrokenImageError(path, str(error)) from error
        return content

    def decode(self, content: bytes, path: str) -> np.ndarray:
        """Returns the image, (H, W, C), that a file's content stands for.

        It is uint8, or float32 where ``channels`` are given.

        Args:
            content: What :meth:`read` gave, or is known to be harmless.
            path: The file, for errors.

        Raises:
            BrokenImageError: If it is truncated, no image, or what is white is unknown.
        """
        try:
            if self.channels is None:
                return self._decode_colours(content)
            image = decode_channels(content, self.channels, self.max_pixels)
        except ValueError as error:
            raise BrokenImageError(path, str(error)) from error
        return np.ascontiguousarray(image[..., ::-1]) if self.channels == 3 else image

    def _decode_colours(self, content: bytes) -> np.ndarray:
        if self.imdecode_backend != "cv2" or self.color_type == "unchanged":
            if self.imdecode_backend == "pillow" and self.color_type != "unchanged":
                mode = ""
                with suppress(Exception), Image.open(io.BytesIO(content)) as file:
                    mode = file.mode  # of a bad header, the decoder will tell
                if mode[:1] in ("I", "F"):  # Pillow cuts it off: all would be white
                    values = "values of more than 8 bits"
                    raise ValueError(f"{values}, which imdecode_backend='cv2' scales")
            return imdecode(content, self.color_type, self.imdecode_backend)
        flag = imread_flags[self.color_type]
        image = imdecode(content, flag | cv2.IMREAD_ANYDEPTH)
        if image.dtype == np.uint8:
            return image
        reason = odd_tiff(content)
        if image.dtype != np.uint16 or reason:
            raise ValueError(reason or f"an image of {image.dtype} values")
        bits, highest = self.bit_depth, int(image.max())
        if bits is None and 0 < highest < _SURELY_16_BITS or highest >> (bits or 16):
            raise ValueError(
                f"16-bit values up to {highest} do not fit bit_depth={bits}; give the "
                "transform that loads it the bit_depth of the camera or scanner, such "
                "as 12, or 16 if all bits are used"
            )
        if bits in (None, 16):  # OpenCV's own, which knows every kind of TIFF
            return imdecode(content, flag)
        return (image >> (bits - 8)).astype(np.uint8)


class CheckedImageBackend(LocalBackend):
    """Gives other loaders the files that :class:`LoadImage` would read, and no others.

    mm's inferencers find a pipeline's loader by the name ``LoadImageFromFile``; our
    recipes say ``backend_args=dict(backend="checked_image")`` there. ``max_pixels`` is
    as for :class:`LoadImage`.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._file = LoadImage(max_pixels=max_pixels)

    def get(self, filepath: str | Path) -> bytes:
        """As :meth:`LoadImage.read`."""
        return self._file.read(str(filepath))


register_backend("checked_image", CheckedImageBackend, force=True)

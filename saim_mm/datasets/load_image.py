"""Opening an image, and saying what is wrong with one that cannot be opened."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from ..registry import register

#: Pixels of the largest image that is decoded; Pillow's own bound.
MAX_PIXELS = 2 * 89_478_485


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


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Walks over the header of a JPEG, up to where the pixels begin.

    Args:
        content: A file that begins with the marker of a JPEG.

    Yields:
        Marker, and where its data begin and end.
    """
    position = 2
    while content[position : position + 1] == b"\xff":
        marker = content[position + 1 : position + 2]
        size = int.from_bytes(content[position + 2 : position + 4], "big")
        if marker in (b"\xda", b"") or size < 2:
            return
        yield marker[0], position + 4, position + 2 + size
        position += 2 + size


def _lacks_jpeg_end(content: bytes) -> bool:
    """Tells whether a JPEG breaks off before its end-of-image marker.

    OpenCV up to 4.8 decodes such a file into a picture whose rest is grey, without
    an error; later versions miss some. Whole files nearly always end in the marker,
    so the search, for cameras that append data of their own, seldom runs.
    """
    if not content.startswith(b"\xff\xd8") or content.endswith(b"\xff\xd9"):
        return False
    # Skip the header: a thumbnail in it has an end marker too.
    header_end = max((end for *_, end in jpeg_segments(content)), default=2)
    return content.rfind(b"\xff\xd9", header_end) < 0


def check_size(content: bytes, path: str) -> None:
    """Refuses a file that would decode into more than :data:`MAX_PIXELS`.

    A file of a few kB can ask for many GB of memory. Only the header is read, by
    Pillow; a file that it does not know is left to the decoder.

    Raises:
        BrokenImageError: If the image is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warning begins at half our limit
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise BrokenImageError(path, str(error)) from error
    except Exception:  # what Pillow makes of a bad header; the decoder will see
        return
    check_pixels(height, width, path)


def check_pixels(height: int, width: int, path: str) -> None:
    """Refuses an image of more than :data:`MAX_PIXELS`.

    Raises:
        BrokenImageError: If the image is too large.
    """
    if height * width > MAX_PIXELS:
        raise BrokenImageError(
            path,
            f"{width} x {height} pixels, more than {MAX_PIXELS}: a decompression bomb",
        )


@register("transform")
class LoadImage(LoadImageFromFile):
    """Loads an image and rejects files that are not wholly there.

    Like mmcv's ``LoadImageFromFile``, it sets ``img`` ((H, W, 3) uint8 in BGR with the
    default options), ``img_shape`` and ``ori_shape``, both (H, W). It differs in that
    a truncated JPEG is an error with any version of OpenCV (see
    :func:`_lacks_jpeg_end`), and in that errors say what is wrong with the file.

    Args:
        to_float32: Give float32 instead of uint8, still in [0, 255].
        color_type: See :func:`mmcv.imfrombytes`.
        imdecode_backend: See :func:`mmcv.imfrombytes`.
        backend_args: Options of the mmengine file backend.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
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
        """Returns the content of a file.

        Raises:
            BrokenImageError: If it is empty, or a JPEG that breaks off.
            OSError: If it cannot be read.
        """
        content = fileio.get(path, backend_args=self.backend_args)
        if not content:
            raise BrokenImageError(path, "empty file")
        if _lacks_jpeg_end(content):
            raise BrokenImageError(
                path, f"truncated JPEG: no end marker in {len(content)} bytes"
            )
        return content

    def decode(self, content: bytes, path: str) -> np.ndarray:
        """Returns the image, (H, W, C) uint8, that a file's content stands for.

        Raises:
            BrokenImageError: If it is too large, truncated, or no image.
        """
        check_size(content, path)
        image = mmcv.imfrombytes(
            content, flag=self.color_type, backend=self.imdecode_backend
        )
        if image is None:
            raise BrokenImageError(
                path,
                f"truncated or no image: {len(content)} bytes that begin with "
                f"{content[:12]!r}",
            )
        return image

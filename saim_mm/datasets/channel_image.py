"""Images of any number of channels, their values as the file has them.

TIFF of 8, 16, 32 or 64 bits, whole numbers or floats, with the channels of a pixel side
by side, plane by plane or page by page; ``.npy``; and all that OpenCV reads.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
from importlib.util import find_spec
from typing import Any

import cv2
import mmcv
import numpy as np

from .image_files import one_line
from .image_header import TIFF, not_an_image

NPY = b"\x93NUMPY"
#: By version of .npy; the third is for records, whose names are not Latin.
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_INSTALL = "pip install 'saim_mm[bands]', or tifffile and imagecodecs"
#: Pages of a TIFF beside those of the channels: overviews and masks.
_OTHER_PAGES = 64
_IS_REDUCED, _IS_MASK = 1, 4
#: Compression: none; Deflate and Zstandard, old and new. Damaged LZW takes the
#: process down: in imagecodecs 2025.3.30 and 2026.3.6 by a segmentation fault.
_CODECS = (1, 8, 32946, 34926, 50000)


def decode_channels(content: bytes, channels: int, max_pixels: int) -> np.ndarray:
    """Decodes an image of C channels.

    Args:
        content: What a file holds.
        channels: Number of channels C that it must have.
        max_pixels: An image may have so many values.

    Returns:
        (H, W, C) float32, channels in the order of the file. Whole numbers of more than
        24 bits are rounded.

    Raises:
        ValueError: If it is damaged, too large, of another number of channels or of
            values that are no numbers; the message is one line.
    """
    if content.startswith(NPY):
        values = _read_npy(content)
    elif content.startswith(TIFF):
        values = _read_tiff(content, channels, max_pixels)
    else:
        values = _read_other(content, channels)
    return as_channels(values, channels, max_pixels)


def as_channels(
    values: np.ndarray, channels: int, max_values: int | None = None
) -> np.ndarray:
    """Brings values (H, W), (H, W, C) or (C, H, W) into the form (H, W, C) float32.

    Where first and last axis both have C entries, the channels are the last.

    Raises:
        ValueError: As for :func:`decode_channels`.
    """
    if values.dtype.kind not in "uif":
        raise ValueError(f"values of type {values.dtype}, neither integers nor floats")
    image = values[..., None] if values.ndim == 2 else values
    if image.ndim == 3 and channels not in image.shape[2:]:
        image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise ValueError(
            f"values of shape {values.shape}, no image of {channels} channels; the "
            "number of channels is the channels of the transform that loads it"
        )
    if max_values is not None and image.size > max_values:
        raise ValueError(
            f"{image.size} values, more than {max_values}: raise max_pixels of the "
            "transform that loads it"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        image = image.astype(np.float32, order="C")
    if not np.isfinite(image).all():
        bad = image.size - int(np.isfinite(image).sum())
        raise ValueError(f"{bad} of {image.size} values are NaN or infinite")
    return image


def _read_npy(content: bytes) -> np.ndarray:
    """Reads an array without running anything, and no more than the file holds."""
    file = io.BytesIO(content)
    try:
        read_header = _READ_HEADER[np.lib.format.read_magic(file)]
        shape, fortran_order, dtype = read_header(file)
    except Exception as error:  # numpy raises anything for a bad header
        raise ValueError(f"a .npy with a damaged header: {error}") from error
    if dtype.hasobject:
        raise ValueError("a .npy of objects, which are pickles; none is loaded")
    start, wanted = file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(content) - start != wanted:
        raise ValueError(
            f"a .npy of {wanted} bytes by its header ({dtype}, {shape}), with "
            f"{len(content) - start} bytes: truncated or damaged"
        )
    values = np.frombuffer(content, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _read_tiff(content: bytes, channels: int, limit: int) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError(f"a TIFF of many channels: {_INSTALL}") from error
    # It warns of every odd tag, again in each epoch; what matters, it raises.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(content), is_ome=False) as file:
            shape, pages = file.pages.first.shape, list[Any]()
            for page in itertools.islice(file.pages, channels + _OTHER_PAGES):
                kind = getattr(page, "subfiletype", 0)
                if page.shape == shape and not kind & (_IS_REDUCED | _IS_MASK):
                    pages.append(page)
            for page in pages:
                _check_page(page, content, limit // len(pages))
            planes = [page.asarray(maxworkers=1) for page in pages]
    except Exception as error:  # tifffile and its codecs raise anything
        raise ValueError(f"TIFF: {one_line(error)}") from error
    return planes[0] if len(planes) == 1 else np.stack(planes)


def _check_page(page: Any, content: bytes, limit: int) -> None:
    """Refuses a page that would cost too much, or that is not all there."""
    if max(page.size, math.prod(page.chunks)) > limit:
        raise ValueError(
            f"pages of {page.shape} values in parts of {page.chunks}, more than "
            f"{limit}: raise max_pixels of the transform that loads it"
        )
    ends = map(int.__add__, page.dataoffsets, page.databytecounts)
    if max(ends, default=0) > len(content):
        raise ValueError("truncated: pixels beyond the end of the file")
    if page.compression not in _CODECS or page.bitspersample not in (8, 16, 32, 64):
        kind = getattr(page.compression, "name", page.compression)
        raise ValueError(
            f"values of {page.bitspersample} bits, compression {kind}; only 8, 16, 32 "
            "and 64 bits are read, and no compression, Deflate or Zstandard; convert "
            "it (gdal_translate -co COMPRESS=DEFLATE)"
        )
    if page.compression > 1 and find_spec("imagecodecs") is None:
        # tifffile itself would inflate a few bytes to whatever they ask for.
        raise ValueError(f"compressed: {_INSTALL}")


def _read_other(content: bytes, channels: int) -> np.ndarray:
    """What OpenCV reads, in RGB order; transparency counts where 4 channels do."""
    upright = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    flag = cv2.IMREAD_UNCHANGED if channels == 4 else upright
    image = imdecode(content, flag)
    colours = image.ndim == 3 and image.shape[2] >= 3
    return image[..., [2, 1, 0, 3][: image.shape[2]]] if colours else image


def imdecode(content: bytes, flag: int | str, backend: str = "cv2") -> np.ndarray:
    """:func:`mmcv.imfrombytes`, which raises ``ValueError`` for what is no image."""
    try:
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except cv2.error as error:
        raise ValueError(one_line(error)) from error
    if image is None:
        raise ValueError(not_an_image(content))
    return image

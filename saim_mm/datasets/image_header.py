"""What decoding a file would cost, known from its header before it is decoded."""

from __future__ import annotations

import io
import itertools
import re
import struct
import warnings
from collections.abc import Iterator

from PIL import Image

#: Pixels of the largest image that is decoded; Pillow's own bound.
MAX_PIXELS = 2 * 89_478_485
#: A progressive JPEG may go over so many pixels as so many images of the largest size;
#: each scan goes over all of them, and an empty one is a few bytes.
_LARGEST_IMAGES = 16
_MAX_SEGMENTS = 10_000

#: What libjpeg takes for the next marker: it skips all else, and markers without data.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_SCAN, _END = 0xDA, 0xD9
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Tags of TIFF.
_WIDTH, _HEIGHT, _BITS, _CHANNELS, _KIND = 256, 257, 258, 277, 339
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_TAGS = {_WIDTH, _HEIGHT, _BITS, _CHANNELS, _KIND, _TILE_WIDTH, _TILE_HEIGHT}
#: Kinds of whole numbers in TIFF, as struct has them.
_NUMBERS = {3: "H", 4: "I", 16: "Q"}


def check_cost(content: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Refuses a file that would take much memory or time to decode.

    A file of a few kB can ask for many GB or for minutes. What is said of JPEG, PNG and
    TIFF holds whatever else is wrong with the file; of other kinds Pillow says the
    size, and a file that it does not know is refused.

    Raises:
        ValueError: If the image is too large, or nobody knows how large it is.
    """
    height, width, scans = _size_and_scans(content)
    size, limit = f"{width} x {height} pixels", f"max_pixels={max_pixels}"
    if height * width > max_pixels:
        reason = f"{size}, more than {limit}"
    elif height * width * scans > max_pixels * _LARGEST_IMAGES:
        reason = f"{scans} scans of {size}, more than {limit} x {_LARGEST_IMAGES}"
    else:
        return
    raise ValueError(
        f"{reason}: a decompression bomb, or raise max_pixels of the transform that "
        "loads it, or of its backend_args"
    )


def _size_and_scans(content: bytes) -> tuple[int, int, int]:
    """Returns (H, W, times that the decoder goes over all pixels)."""
    if content.startswith(b"\xff\xd8"):
        return _read_jpeg(content)
    if content.startswith(_PNG) and len(content) >= 24:
        # libpng refuses files that do not begin with this chunk.
        width, height = struct.unpack_from(">II", content, 16)
        return height, width, 1
    try:
        if content.startswith(TIFF):
            tags = _tiff_tags(content)
            height = max(tags[_HEIGHT], tags.get(_TILE_HEIGHT, 0))
            return height, max(tags[_WIDTH], tags.get(_TILE_WIDTH, 0)), 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warning begins at half our limit
            with Image.open(io.BytesIO(content)) as image:
                return image.height, image.width, 1
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error} (PIL.Image.MAX_IMAGE_PIXELS)") from error
    except Exception as error:  # Pillow may raise anything for a bad header
        raise ValueError(not_an_image(content)) from error


def _read_jpeg(content: bytes) -> tuple[int, int, int]:
    height = width = channels = scans = 0
    progressive = False
    for marker, start, _ in jpeg_segments(content):
        if marker in _FRAMES and not channels and start + 6 <= len(content):
            height, width, channels = struct.unpack_from(">xHHB", content, start)
            progressive = marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            # One scan of all channels is the last one that libjpeg reads.
            if not progressive and content[start : start + 1] == bytes([channels]):
                break
    return height, width, scans


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Walks over the segments of a JPEG as libjpeg does, those between scans too.

    Yields:
        Marker, and where its data begin and end.

    Raises:
        ValueError: If there are too many.
    """
    position = 2
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(content, position)
        if match is None or match[1][0] == _END:
            return
        start = match.end()
        size = int.from_bytes(content[start : start + 2], "big")
        if size < 2:
            return
        position = start + size
        yield match[1][0], start + 2, position
    raise ValueError(f"a JPEG of more than {_MAX_SEGMENTS} segments")


def jpeg_header(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG before its pixels, as :func:`jpeg_segments` has them."""
    return itertools.takewhile(lambda s: s[0] != _SCAN, jpeg_segments(content))


def not_an_image(content: bytes) -> str:
    """Says what a file is that is not decoded, as far as that can be known."""
    start = content[:12]
    text = f"truncated or no image: {len(content)} bytes that begin with {start!r}"
    return odd_tiff(content) or text


def odd_tiff(content: bytes) -> str:
    """Says what a file is if it is a TIFF of measurements; else nothing."""
    if not content.startswith(TIFF):
        return ""
    try:
        tags = _tiff_tags(content)
    except struct.error:
        return ""
    channels, bits = tags.get(_CHANNELS, 1), tags.get(_BITS, 1)
    kinds = {1: "unsigned", 2: "signed", 3: "float"}
    kind = kinds.get(tags.get(_KIND, 1), "other")
    if channels <= 4 and bits <= 16 and kind == "unsigned":
        return ""
    return (
        f"a TIFF of {channels} channels of {kind} {bits}-bit values, and no image of 1 "
        "to 4 channels of 8 or 16 bits; convert it, or have the values as they are by "
        f"channels={channels} of the transform that loads it"
    )


def _tiff_tags(content: bytes) -> dict[int, int]:
    """First value of each tag of the first image of a TIFF; Pillow would read all."""
    order = "<" if content.startswith(b"I") else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    word, count, width = ("Q", "Q", 8) if is_big else ("I", "H", 4)
    (start,) = struct.unpack_from(order + word, content, width)
    (number,) = struct.unpack_from(order + count, content, start)
    start += struct.calcsize(order + count)
    tags: dict[int, int] = {}
    for index in range(min(number, 2**16)):
        entry = start + index * (4 + 2 * width)
        tag, kind, length = struct.unpack_from(order + "HH" + word, content, entry)
        format_ = order + _NUMBERS.get(kind, "B")
        position = entry + 4 + width
        if length * struct.calcsize(format_) > width:
            (position,) = struct.unpack_from(order + word, content, position)
        if tag in _TAGS:
            tags.setdefault(tag, struct.unpack_from(format_, content, position)[0])
    return tags

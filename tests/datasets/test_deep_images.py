"""Files of more than 8 bits: scaled by a stated rule or refused, never wrapped."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from image_files import encoded, one_line, photo, write
from PIL import Image

from saim_mm.datasets import BrokenImageError, LoadImage
from saim_mm.datasets.load_random_crop import LoadRandomResizedCrop

GRAY = np.asarray(photo(20, 30).convert("L"))


def deep(bits: int) -> np.ndarray:
    """A picture of so many bits in 16; its brightest value is white."""
    gray = GRAY.astype(np.uint32)
    return (gray * (2**bits - 1) // gray.max()).astype(np.uint16)


def tiff(values: np.ndarray) -> bytes:
    """An uncompressed TIFF of any kind of values, (H, W, C)."""
    height, width, channels = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8),
        (277, channels), (278, height), (279, values.nbytes), (339, kind),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags))
    for number, value in tags:
        directory += struct.pack("<HHII", number, 4, 1, value)
    start = 8 + values.nbytes
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return b"II*\0" + struct.pack("<I", start) + data + directory + bytes(4)


def pnm(values: np.ndarray, white: int) -> bytes:
    height, width = values.shape
    return b"P5 %d %d %d\n" % (width, height, white) + values.astype(">u2").tobytes()


def in_file(kind: str, values: np.ndarray, white: int = 65535) -> bytes:
    if kind == "PNG":
        return encoded("PNG", Image.fromarray(values))
    return tiff(values[..., None]) if kind == "TIFF" else pnm(values, white)


def load(content: bytes, tmp_path: Path, **options: Any) -> np.ndarray:
    path = str(write(tmp_path / "a.bin", content))
    image = LoadImage(**options)(dict(img_path=path))["img"]
    crop = LoadRandomResizedCrop(8, **options)(dict(img_path=path))["img"]
    assert crop.dtype == np.uint8 and crop.max() > 100
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_values_are_scaled_by_their_bits(kind: str, bits: int, tmp_path: Path) -> None:
    values = deep(bits)
    content = in_file(kind, values)
    got = load(content, tmp_path, bit_depth=bits)
    assert got.dtype == np.uint8 and got.max() == 255
    np.testing.assert_allclose(got[..., 0], values >> (bits - 8), atol=bits == 16)
    if bits < 16:
        with pytest.raises(BrokenImageError, match="give the transform that") as raised:
            load(content, tmp_path)
        assert f"up to {2**bits - 1} do not fit bit_depth=None" in one_line(raised)
        with pytest.raises(BrokenImageError, match="do not fit bit_depth=9"):
            load(content, tmp_path, bit_depth=9)
    else:
        np.testing.assert_array_equal(load(content, tmp_path), got)
        wanted = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(got, wanted)  # as it always was


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_pillow_does_not_cut_values_off(kind: str) -> None:
    content = in_file(kind, deep(12))
    with pytest.raises(BrokenImageError, match="imdecode_backend='cv2' scales"):
        LoadImage(imdecode_backend="pillow").decode(content, "a")
    unchanged = LoadImage(imdecode_backend="pillow", color_type="unchanged")
    assert unchanged.decode(content, "a").max() == 4095
    LoadImage(imdecode_backend="pillow").decode(encoded(), "a")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_black_is_black_at_any_depth(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", in_file(kind, np.zeros((4, 4), np.uint16)))
    assert not LoadImage()(dict(img_path=str(path)))["img"].any()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.arange(-6, 6, dtype=np.int16).reshape(3, 4, 1), "1 channels of signed 16"),
        (np.ones((3, 4, 1), np.float32), "1 channels of float 32"),
        (np.ones((3, 4, 3), np.float32), "3 channels of float 32"),
        (np.ones((3, 4, 13), np.uint16), "13 channels of unsigned 16"),
        (np.ones((3, 4, 5), np.uint8), "5 channels of unsigned 8"),
        (np.ones((3, 4, 1), np.uint32), "1 channels of unsigned 32"),
    ],
)
def test_measurements_are_no_images(
    values: np.ndarray, text: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tif", tiff(values))
    for loader in (LoadImage(), LoadImage(bit_depth=12), LoadRandomResizedCrop(8)):
        with pytest.raises(BrokenImageError, match=f"a TIFF of {text}-bit") as raised:
            loader(dict(img_path=str(path)))
        assert f"by channels={values.shape[2]} of the transform" in one_line(raised)
    pytest.importorskip("tifffile")
    mmcv_s = dict(imdecode_backend="tifffile", color_type="unchanged")
    for options in (dict(channels=values.shape[2]), mmcv_s):
        read = LoadImage(**options)(dict(img_path=str(path)))["img"]
        np.testing.assert_array_equal(read.reshape(values.shape), values)


def test_a_truncated_tiff_is_called_so(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo().save(buffer, "TIFF", compression="tiff_lzw")
    path = write(tmp_path / "a.tif", buffer.getvalue()[:-200])
    with pytest.raises(BrokenImageError, match="truncated or no image"):
        LoadImage()(dict(img_path=str(path)))


@pytest.mark.parametrize("color_type", ["color", "grayscale"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_8_bits_are_as_they_were(kind: str, color_type: str) -> None:
    content = encoded(kind)
    flag = dict(color=cv2.IMREAD_COLOR, grayscale=cv2.IMREAD_GRAYSCALE)[color_type]
    wanted = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    got = LoadImage(color_type=color_type, bit_depth=12).decode(content, "a")
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("wrong", [7, 17, 12.5, "12"])
def test_wrong_depths(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be from 8 to 16"):
        LoadRandomResizedCrop(8, bit_depth=wrong)

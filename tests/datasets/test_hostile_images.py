"""Files that would hang a run, fill its memory or take minutes: named and skipped."""

from __future__ import annotations

import io
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from image_files import LOAD, encoded, one_line, photo, write
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image

from saim_mm.datasets import BrokenImageError, CheckLabels, LoadImage, UnlabeledImages
from saim_mm.datasets.check_labels import LabelMapError
from saim_mm.datasets.image_header import check_cost, jpeg_segments
from saim_mm.datasets.load_random_crop import LoadRandomResizedCrop

CONFIGS = Path(__file__).parents[2] / "configs"
FAST = LoadRandomResizedCrop(8)
#: mm's own, as its inferencers find it by its name.
THEIRS = dict(type="LoadImageFromFile", backend_args=dict(backend="checked_image"))
LOADERS = pytest.mark.parametrize(
    "loader",
    [LoadImage(), FAST, TRANSFORMS.build(THEIRS)],
    ids=["slow", "fast", "mm's"],
)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's address may be about 100 bytes long
        server.bind(path.name)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(encoded())
        file.truncate(2**40)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "not a regular file"),
    "link to a FIFO": (
        lambda p: (os.mkfifo(f"{p}.fifo"), p.symlink_to(f"{p}.fifo")),
        "not a regular file",
    ),
    "link to an endless file": (
        lambda p: p.symlink_to("/dev/zero"),
        "not a regular file",
    ),
    "terminal": (lambda p: p.symlink_to("/dev/tty"), "not a regular file|No such"),
    "socket": (_socket, "not a regular file"),
    "file of a TiB": (_sparse, "1099511627776 bytes, more than"),
    "file that the system makes up": (
        lambda p: p.symlink_to("/proc/self/maps"),
        "empty file|No such file",
    ),
}


@LOADERS
@pytest.mark.parametrize("kind", NO_FILES)
def test_only_regular_files_of_a_size_are_read(
    kind: str, loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = NO_FILES[kind]
    make(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg", encoded(image=photo(20, 30)))
    dataset = UnlabeledImages(str(tmp_path), pipeline=[loader], extensions=[".jpg"])
    start = time.monotonic()
    assert dataset[0]["sample_idx"] == 1
    assert dataset.broken_indices() == [0]
    with pytest.raises((BrokenImageError, OSError), match=reason):
        loader(dict(img_path=str(tmp_path / "a.jpg")))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("kind", NO_FILES)
def test_label_maps_are_regular_files_too(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = NO_FILES[kind]
    make(tmp_path / "a.png")
    with pytest.raises(LabelMapError, match=f"a.png.*({reason}|does not exist)"):
        CheckLabels(num_classes=2)(dict(seg_map_path=str(tmp_path / "a.png")))


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside a config that has a type."""
    if isinstance(value, dict):
        if "type" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _steps(item)


def test_recipes_have_no_other_way_to_an_image() -> None:
    found = 0
    for path in sorted(CONFIGS.rglob("*.py")):
        cfg = Config.fromfile(path, import_custom_modules=False)
        for step in _steps(cfg.to_dict()):
            if step["type"] == "LoadImageFromFile":
                assert step == THEIRS, path
                found += 1
    assert found >= 20  # four COCO recipes alone have four each


@pytest.mark.parametrize("library", ["mmdet", "mmseg"])
def test_the_loaders_of_inferencers_take_the_option(
    library: str, tmp_path: Path
) -> None:
    """They stand in the place of a recipe's loader, and keep its options."""
    pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
    pytest.importorskip(f"{library}.apis")
    loader = TRANSFORMS.build(THEIRS | dict(type=f"{library}.InferencerLoader"))
    path = str(write(tmp_path / "a.png", encoded("PNG", photo(20, 30))))
    image = loader(path)["img"]
    np.testing.assert_array_equal(image, LoadImage()(dict(img_path=path))["img"])
    np.testing.assert_array_equal(image, loader(image)["img"])
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(OSError, match="not a regular file"):
        loader(str(tmp_path / "b.png"))


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def tiff(**changes: tuple[int, int]) -> bytes:
    """A TIFF some of whose tags, of the names, are another tag and value."""
    content = bytearray(encoded("TIFF"))
    numbers = dict(width=256, height=257, channels=277, rows=278, planes=284)
    wanted = {numbers[name]: change for name, change in changes.items()}
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (number,) = struct.unpack_from("<H", content, entry)
        if number in wanted:
            tag, value = wanted[number]
            struct.pack_into("<HHII", content, entry, tag, 4, 1, value)
    return bytes(content)


def big_tiff(side: int) -> bytes:
    tags = b"".join(struct.pack(">HHQII", tag, 4, 1, side, 0) for tag in (256, 257))
    return b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, 2) + tags + bytes(40)


def with_scans(content: bytes, number: int) -> bytes:
    """Repeats the last scan of a progressive JPEG."""
    tables = content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda"))
    return content[:-2] + content[tables:-2] * number + content[-2:]


def with_size(content: bytes, side: int) -> bytes:
    """Makes a JPEG claim another size."""
    frame = next(s for m, s, _ in jpeg_segments(content) if 0xC0 <= m <= 0xC2)
    return content[: frame + 1] + struct.pack(">HH", side, side) + content[frame + 5 :]


BROAD = png(60_000, 60_000)
LONG_TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 * 2**20)))
FILLED = encoded().replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1)
BOMBS = {
    "PNG": BROAD,
    "PNG with a bad checksum": BROAD[:29] + b"\0\0\0\0" + BROAD[33:],
    "PNG with a bad checksum of a text": png(
        60_000, 60_000, chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)
    ),
    "PNG with a text that Pillow refuses": png(60_000, 60_000, LONG_TEXT),
    "JPEG": with_size(encoded(), 60_000),
    "JPEG with fill bytes": with_size(FILLED, 60_000),
    "JPEG with garbage in the header": with_size(
        encoded().replace(b"\xff\xdb", b"garbage\xff\xdb", 1), 60_000
    ),
    "BMP": (
        encoded("BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encoded("BMP")[26:]
    ),
    "TIFF": tiff(width=(256, 60_000), height=(257, 60_000)),
    "TIFF of a huge tile": tiff(rows=(322, 60_000), planes=(323, 60_000)),
    "TIFF of 13 channels": tiff(
        width=(256, 60_000), height=(257, 60_000), channels=(277, 13)
    ),
    "BigTIFF": big_tiff(60_000),
    "progressive JPEG of many scans": with_size(
        with_scans(encoded(progressive=True), 300), 10_000
    ),
}


@LOADERS
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(
    kind: str, loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*args: Any, **options: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(mmcv, "imfrombytes", decode)
    path = write(tmp_path / "a.jpg", BOMBS[kind])
    with pytest.raises(BrokenImageError, match="decompression bomb") as raised:
        loader(dict(img_path=str(path)))
    assert "a.jpg" in one_line(raised)


def _with_backend(max_pixels: int) -> LoadImageFromFile:
    options = dict(backend="checked_image", max_pixels=max_pixels)
    return LoadImageFromFile(backend_args=options)


@LOADERS
def test_the_limit_is_an_option_that_the_message_names(
    loader: Any, tmp_path: Path
) -> None:
    path = str(write(tmp_path / "a.png", encoded("PNG", photo(20, 30))))
    kind, options = type(loader), dict(scale=8) if loader is FAST else {}
    if kind is LoadImageFromFile:
        kind = _with_backend
    with pytest.raises(BrokenImageError, match="raise max_pixels of the transform"):
        kind(**options, max_pixels=599)(dict(img_path=path))
    assert kind(**options, max_pixels=600)(dict(img_path=path))["ori_shape"] == (20, 30)
    for wrong in (0, 2**30 + 1):
        with pytest.raises(ValueError, match=f"max_pixels={wrong} must be from 1"):
            kind(**options, max_pixels=wrong)(dict(img_path=path))


def test_ordinary_progressive_images_have_scans_to_spare() -> None:
    content = encoded(progressive=True)
    scans = sum(marker == 0xDA for marker, *_ in jpeg_segments(content))
    assert 6 <= scans <= 10
    check_cost(content, 24 * 32)
    check_cost(with_scans(content, 300))  # of so few pixels
    np.testing.assert_array_equal(
        LoadImage().decode(content, "a"), mmcv.imfrombytes(content)
    )


@LOADERS
@pytest.mark.parametrize("segment", [b"", b"Exif\0\0II*\0" + bytes(60_000)])
def test_endless_headers(segment: bytes, loader: Any, tmp_path: Path) -> None:
    plain = encoded(image=photo(20, 30))
    one = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    many = 800 if segment else 12_000
    path = write(tmp_path / "a.jpg", plain[:2] + one * many + plain[2:])
    start = time.monotonic()
    if segment:  # as camera makers do it, but for the number
        assert loader(dict(img_path=str(path)))["ori_shape"] == (20, 30)
    else:
        with pytest.raises(BrokenImageError, match="more than 10000 segments"):
            loader(dict(img_path=str(path)))
    assert time.monotonic() - start < 20


def test_a_broken_checksum_of_a_text_is_no_reason_to_refuse(tmp_path: Path) -> None:
    whole = encoded("PNG", photo(20, 30))
    text = chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)
    path = write(tmp_path / "a.png", whole[:33] + text + whole[33:])
    image = LoadImage()(dict(img_path=str(path)))["img"]
    with Image.open(io.BytesIO(whole)) as wanted:
        np.testing.assert_array_equal(image[..., ::-1], np.asarray(wanted))


def test_the_run_goes_on(tmp_path: Path) -> None:
    for index, content in enumerate(BOMBS.values()):
        write(tmp_path / f"{index:02d}.jpg", content)
    write(tmp_path / "z.jpg")
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=1.0)
    assert dataset[0]["sample_idx"] == len(BOMBS)
    assert len(dataset.broken_indices()) == len(BOMBS)

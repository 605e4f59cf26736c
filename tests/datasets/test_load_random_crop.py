"""The fast loader serves the crops of the slow transforms, and their pixels nearly."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from PIL import ExifTags, Image

from saim_mm.datasets import load_random_crop
from saim_mm.datasets.image_header import MAX_PIXELS
from saim_mm.datasets.load_image import BrokenImageError, LoadImage
from saim_mm.datasets.load_random_crop import LoadRandomResizedCrop
from saim_mm.datasets.packing import psnr

SIDE = 48
CROP = dict(scale=SIDE, crop_ratio_range=(0.3, 1.0))


def photograph(height: int, width: int) -> Image.Image:
    """Waves of a few pixels' length and some noise, in three channels."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in ((7, 11), (5, 23), (17, 6))]
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    return Image.fromarray(
        np.clip(128 + 90 * np.stack(waves, 2) + 5 * noise, 0, 255).astype(np.uint8)
    )


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # upright after a quarter turn
    return encoded(image, exif=exif)


PHOTO = photograph(90, 131)
KINDS = {
    "4:4:4": encoded(PHOTO, subsampling=0),
    "4:2:0": encoded(PHOTO, subsampling=2),
    "progressive": encoded(PHOTO, progressive=True),
    "grey": encoded(PHOTO.convert("L")),
    "CMYK": encoded(PHOTO.convert("CMYK")),
    "turned": turned(PHOTO),
    "upright EXIF": encoded(PHOTO, exif=Image.Exif()),
    "PNG": encoded(PHOTO, "PNG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "smaller than the crop": encoded(photograph(20, 33)),
    "one pixel": encoded(photograph(1, 1)),
}


def slow_path(**options: Any) -> Compose:
    crop = dict(type="RandomResizedCrop", backend="pillow", interpolation="bicubic")
    flip = dict(type="RandomFlip", prob=options.pop("flip_prob", 0.0))
    return Compose(
        [TRANSFORMS.build(t) for t in (dict(type="LoadImage"), crop | options, flip)]
    )


def served(transform: Any, path: Path, seed: int) -> tuple[dict[str, Any], float]:
    """What a transform makes of a file, and the next random number."""
    np.random.seed(seed)
    return transform(dict(img_path=str(path))), np.random.rand()


@pytest.fixture(params=[True, False], ids=["simplejpeg", "OpenCV"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(load_random_crop, "simplejpeg", None)
    elif load_random_crop.simplejpeg is None:
        pytest.skip("simplejpeg is an optional extra")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_same_crop_and_flip_and_nearly_the_same_pixels(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"  # whatever it is, PNG in disguise too
    path.write_bytes(KINDS[kind])
    slow = slow_path(**CROP, flip_prob=0.5)
    fast = LoadRandomResizedCrop(**CROP, flip_prob=0.5)
    for seed in range(20):
        wanted, next_wanted = served(slow, path, seed)
        got, next_got = served(fast, path, seed)
        assert next_got == next_wanted  # crop and flip drew alike
        assert got["img"].dtype == np.uint8
        for key in ("flip", "flip_direction", "ori_shape"):
            assert got[key] == wanted[key], key
        assert got["img_shape"] == wanted["img_shape"][:2] == (SIDE, SIDE)
        assert psnr(got["img"], wanted["img"]) > 55
        assert np.abs(got["img"].astype(int) - wanted["img"]).max() <= 3


def test_loaded_image_gives_the_crop_of_its_file(tmp_path: Path) -> None:
    """As several views of one image want it, which is decoded once."""
    path = tmp_path / "photo.png"
    path.write_bytes(KINDS["PNG"])
    crop = LoadRandomResizedCrop(**CROP, flip_prob=0.5)
    loaded = LoadImage()(dict(img_path=str(path)))
    before = loaded["img"].copy()
    for seed in range(5):
        results = []
        for given in (dict(img_path=str(path)), dict(loaded)):
            np.random.seed(seed)
            results.append(crop(given))
        assert np.array_equal(results[0]["img"], results[1]["img"])
        assert results[0]["ori_shape"] == results[1]["ori_shape"]
        assert results[0]["flip"] == results[1]["flip"]
    assert np.array_equal(loaded["img"], before)


@pytest.mark.usefixtures("decoder")
def test_real_photographs() -> None:
    root = Path(os.environ.get("SAIM_MM_DATA", "missing")) / "imagenet" / "train"
    if not root.is_dir():
        pytest.skip("SAIM_MM_DATA names no folder with imagenet/train")
    crop = dict(scale=224, crop_ratio_range=(0.67, 1.0), flip_prob=0.5)
    slow, fast = slow_path(**crop), LoadRandomResizedCrop(**crop)
    for seed, path in enumerate(sorted(root.rglob("*.JPEG"))[::5]):
        wanted, _ = served(slow, path, seed)
        got, _ = served(fast, path, seed)
        assert psnr(got["img"], wanted["img"]) > 65, path
        assert np.abs(got["img"].astype(int) - wanted["img"]).max() <= 2, path


@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_packing_copies_nothing(flip_prob: float, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(KINDS["4:2:0"])
    sample, _ = served(LoadRandomResizedCrop(**CROP, flip_prob=flip_prob), path, 0)
    packed = TRANSFORMS.build(dict(type="PackInputs"))(sample)["inputs"].numpy()
    assert np.shares_memory(packed, sample["img"])
    np.testing.assert_array_equal(packed, sample["img"].transpose(2, 0, 1))


@pytest.mark.parametrize(("side", "reduction"), [(250, 2), (500, 4), (1000, 8)])
def test_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    side: int, reduction: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg is an optional extra")
    # As sharp as a photograph is: enlarged, it has no detail of a single pixel.
    photo = photograph(120, 120).resize((side + 3, side), Image.Resampling.BICUBIC)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo, quality=95))
    decoded = []

    def decode(content: bytes, size: tuple[int, int], by: int) -> np.ndarray:
        image = decode_jpeg(content, size, by)
        decoded.append((by, image.shape))
        return image

    decode_jpeg = load_random_crop.decode_jpeg
    monkeypatch.setattr(load_random_crop, "decode_jpeg", decode)
    crop = dict(scale=SIDE, crop_ratio_range=(0.85, 1.0))
    for seed in range(5):
        wanted, _ = served(slow_path(**crop), path, seed)
        got, _ = served(LoadRandomResizedCrop(**crop), path, seed)
        assert got["ori_shape"] == (side, side + 3)
        assert psnr(got["img"], wanted["img"]) > 38
    shape = (-(-side // reduction), -(-(side + 3) // reduction), 3)
    assert set(decoded) == {(reduction, shape)}
    served(LoadRandomResizedCrop(**crop, reduce=float("inf")), path, 0)
    assert decoded[-1] == (1, (side, side + 3, 3))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", KINDS["4:4:4"][:900], KINDS["PNG"][:900], b"\xff\xd8\xff\xd9"],
    ids=["empty", "html", "half a JPEG", "half a PNG", "no header"],
)
def test_broken_is_what_is_broken_for_the_slow_path(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenImageError) as wanted:
        LoadImage()(dict(img_path=str(path)))
    np.random.seed(0)
    with pytest.raises(BrokenImageError) as got:
        LoadRandomResizedCrop(**CROP)(dict(img_path=str(path)))
    assert str(got.value) == str(wanted.value)
    assert np.random.rand() == np.random.RandomState(0).rand()  # nothing drawn


@pytest.mark.parametrize("side", [60, 400], ids=["small", "large enough to reduce"])
def test_what_no_decoder_takes_draws_nothing(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("not in order")

    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photograph(side, side)))
    monkeypatch.setattr(load_random_crop, "decode_jpeg", refuse)
    monkeypatch.setattr(mmcv, "imfrombytes", lambda *args, **options: None)
    np.random.seed(0)
    with pytest.raises(BrokenImageError, match="truncated or no image"):
        LoadRandomResizedCrop(**CROP)(dict(img_path=str(path)))
    assert np.random.rand() == np.random.RandomState(0).rand()


def test_damage_inside_is_left_to_opencv(tmp_path: Path) -> None:
    """simplejpeg refuses what OpenCV accepts; the crop is that of the slow path."""
    content = bytearray(KINDS["4:4:4"])
    content[len(content) // 2 : len(content) // 2 + 3] = b"\xff\xd0\xff"
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for seed in range(5):
        try:
            wanted, next_wanted = served(slow_path(**CROP), path, seed)
        except BrokenImageError:
            with pytest.raises(BrokenImageError):
                served(LoadRandomResizedCrop(**CROP), path, seed)
            continue
        got, next_got = served(LoadRandomResizedCrop(**CROP), path, seed)
        assert next_got == next_wanted
        assert psnr(got["img"], wanted["img"]) > 55


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(100))
    body = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + body


def jpeg_bomb() -> bytes:
    """A JPEG whose frame header claims 60,000 x 60,000 pixels."""
    content = bytearray(KINDS["4:4:4"])
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("content", [bomb(60_000, 60_000), jpeg_bomb()])
@pytest.mark.parametrize(
    "transform", [LoadImage(), LoadRandomResizedCrop(**CROP)], ids=["slow", "fast"]
)
def test_decompression_bomb_is_refused_before_it_is_decoded(
    transform: Any, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(mmcv, "imfrombytes", decode)
    monkeypatch.setattr(load_random_crop, "decode_jpeg", decode)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert MAX_PIXELS < 60_000**2
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        transform(dict(img_path=str(path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(flip_prob=1.5), r"flip_prob=1.5 must be in \[0, 1\]"),
        (dict(reduce=0.5), "reduce=0.5 must be at least 1"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadRandomResizedCrop(**CROP, **options)

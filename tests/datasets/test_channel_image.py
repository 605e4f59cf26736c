"""Images of given channels: exactly the values of the file, or broken by name."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bands import npy_of, scene, tiff_of
from image_files import encoded, folder_with_broken, one_line, photo, write
from mmengine.dataset import Compose
from PIL import Image

from saim_mm.datasets import (
    BrokenImageError,
    LoadImage,
    LoadRandomResizedCrop,
    TooManyBrokenImages,
    UnlabeledImages,
)
from saim_mm.datasets.synthetic_images import without_files

tifffile = pytest.importorskip("tifffile")
SCENE = scene(0, size=24)[:, :20]  # (24, 20, 13) uint16
PLANES = SCENE.transpose(2, 0, 1)
FLOATS = SCENE.astype(np.float32) / 7 - 100
BYTES = (SCENE // 64).astype(np.uint8)


def load(content: bytes, tmp_path: Path, channels: int = 13, **options) -> np.ndarray:
    path = write(tmp_path / "a.bin", content)
    return LoadImage(channels=channels, **options)(dict(img_path=str(path)))["img"]


def _chunky(values: np.ndarray, **options) -> bytes:
    return tiff_of(values, planarconfig="contig", **options)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (_chunky(SCENE), SCENE),
        (_chunky(SCENE, rowsperstrip=5), SCENE),
        (_chunky(SCENE, byteorder=">"), SCENE),
        (_chunky(SCENE, bigtiff=True), SCENE),
        (_chunky(FLOATS), FLOATS),
        (_chunky(FLOATS.astype(np.float64)), FLOATS),
        (_chunky(BYTES), BYTES),
        (_chunky(SCENE.astype(np.int16)), SCENE),
        (_chunky(SCENE, tile=(16, 16)), SCENE),
        (tiff_of(PLANES, planarconfig="separate"), SCENE),
        (tiff_of(PLANES), SCENE),  # page by page
        (npy_of(SCENE), SCENE),
        (npy_of(PLANES), SCENE),
        (npy_of(np.asfortranarray(SCENE)), SCENE),
        (npy_of(FLOATS.astype(">f4")), FLOATS),
        (npy_of(FLOATS.astype(np.float16)), FLOATS.astype(np.float16)),
    ],
)
def test_values_are_those_of_the_file(
    content: bytes, values: np.ndarray, tmp_path: Path
) -> None:
    image = load(content, tmp_path)
    assert image.dtype == np.float32 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, values.astype(np.float32))


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_tiff(compression: str, tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    content = _chunky(SCENE, compression=compression, predictor=True, tile=(16, 16))
    np.testing.assert_array_equal(load(content, tmp_path), SCENE)


@pytest.mark.parametrize("compression", ["lzw", "packbits"])
def test_other_codecs_are_refused(compression: str, tmp_path: Path) -> None:
    """That of LZW takes the process down with a damaged file."""
    pytest.importorskip("imagecodecs")
    content = _chunky(SCENE, compression=compression)
    said = f"16 bits, compression {compression.upper()}.*COMPRESS=DEFLATE"
    with pytest.raises(BrokenImageError, match=said):
        load(content, tmp_path)


def test_packed_bits_are_refused(tmp_path: Path) -> None:
    content = bytearray(tiff_of(SCENE[..., 0]))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        bits = file.pages[0].tags[258].valueoffset
    struct.pack_into("<H", content, bits, 12)
    with pytest.raises(BrokenImageError, match="12 bits"):
        load(bytes(content), tmp_path, channels=1)


def test_without_imagecodecs_nothing_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _chunky(SCENE, compression="zlib")
    name = "saim_mm.datasets.channel_image.find_spec"
    monkeypatch.setattr(name, lambda _: None)
    with pytest.raises(BrokenImageError, match="saim_mm\\[bands\\]"):
        load(content, tmp_path)
    np.testing.assert_array_equal(load(_chunky(SCENE), tmp_path), SCENE)


def test_overviews_and_masks_are_no_channels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for plane in PLANES:
            file.write(plane, photometric="minisblack")
        file.write(PLANES[0, ::2, ::2], subfiletype=1, photometric="minisblack")
        file.write(PLANES[0], subfiletype=1, photometric="minisblack")
        file.write(PLANES[0] > 0, subfiletype=4, photometric="miniswhite")
    np.testing.assert_array_equal(load(buffer.getvalue(), tmp_path), SCENE)


GREY = np.asarray(photo(20, 30).convert("L"))
COLOUR = np.asarray(photo(20, 30))
DEEP = COLOUR.astype(np.uint16) * 250


def _png(values: np.ndarray) -> bytes:
    order = [2, 1, 0, 3][: values.shape[2]] if values.ndim == 3 else slice(None)
    return cv2.imencode(".png", values[..., order])[1].tobytes()


@pytest.mark.parametrize(
    ("values", "channels"),
    [
        (GREY, 1),
        (GREY.astype(np.uint16) * 200, 1),
        (COLOUR, 3),
        (DEEP, 3),
        (np.dstack([COLOUR, GREY]), 4),
        (np.dstack([DEEP, GREY.astype(np.uint16)]), 4),
    ],
)
@pytest.mark.parametrize("kind", [_png, tiff_of, npy_of])
def test_photographs_keep_their_values(
    values: np.ndarray, channels: int, kind: Callable, tmp_path: Path
) -> None:
    """Three channels come as BGR, so that ``to_rgb`` restores the file's order."""
    image = load(kind(values), tmp_path, channels)
    wanted = values if values.ndim == 3 else values[..., None]
    np.testing.assert_array_equal(image, wanted[..., ::-1] if channels == 3 else wanted)


def test_a_crop_of_channels_is_the_crop_of_each(tmp_path: Path) -> None:
    """All channels of a crop, cut and filtered alike, and as torch filters floats."""
    path = str(write(tmp_path / "a.npy", npy_of(SCENE)))
    crop = LoadRandomResizedCrop(8, channels=13, flip_prob=0.5)
    for seed in range(8):
        np.random.seed(seed)
        drawn = crop(dict(img_path=path))
        np.random.seed(seed)
        top, left, height, width = crop._draw_box(SCENE.shape[:2])
        for band in range(13):
            part = SCENE[top : top + height, left : left + width, band]
            pixels = torch.tensor(part.astype(np.float32))[None, None]
            wanted = F.interpolate(pixels, (8, 8), mode="bicubic", antialias=True)
            wanted = wanted.flip(-1) if drawn["flip"] else wanted
            got = torch.tensor(drawn["img"][..., band])
            torch.testing.assert_close(got, wanted[0, 0], rtol=1e-5, atol=0.01)
        assert drawn["img"].shape == (8, 8, 13)


def test_a_crop_of_colours_is_that_of_photographs(tmp_path: Path) -> None:
    """The same draws, and pixels to within the rounding of bytes."""
    path = str(write(tmp_path / "a.png", _png(COLOUR)))
    crops = LoadRandomResizedCrop(8), LoadRandomResizedCrop(8, channels=3)
    for seed in range(8):
        images = []
        for crop in crops:
            np.random.seed(seed)
            images.append(crop(dict(img_path=path))["img"])
        assert [image.dtype for image in images] == [np.uint8, np.float32]
        np.testing.assert_allclose(images[1].clip(0, 255), images[0], atol=1)


class _Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    values = np.empty((4, 4, 13), object)
    values[:] = _Bomb()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def _npy_header(shape: str, descr: str = "'<u2'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _with(value: float) -> np.ndarray:
    values = FLOATS.copy()
    values[3, 4, 5] = value
    return values


def _huge_tiff() -> bytes:
    """A few kB of zeros that would inflate to a strip of 10 MB, in a tiny image."""
    content = bytearray(_chunky(BYTES, compression="zlib"))
    strip = zlib.compress(bytes(10_000_000))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = file.pages[0].tags
        offset, count = (tags[i].valueoffset for i in (273, 279))
    # Values of these tags that fit are in the tag itself.
    struct.pack_into("<I", content, offset, len(content))
    struct.pack_into("<I", content, count, len(strip))
    return bytes(content) + strip


BROKEN = {
    "bands": (_chunky(SCENE[..., :12]), "no image of 13 channels"),
    "planes": (tiff_of(PLANES[:12]), "no image of 13 channels"),
    "more pages": (tiff_of(np.concatenate([PLANES, PLANES])), "no image of 13"),
    "grey": (_png(GREY), "no image of 13 channels"),
    "npy bands": (npy_of(SCENE[..., :4]), "no image of 13 channels"),
    "npy axes": (npy_of(SCENE[None]), "no image of 13 channels"),
    "npy empty": (npy_of(SCENE[:0]), "no image of 13 channels"),
    "nan": (npy_of(_with(np.nan)), "1 of 6240 values are NaN or infinite"),
    "inf": (_chunky(_with(np.inf)), "1 of 6240 values are NaN or infinite"),
    "overflow": (npy_of(_with(0).astype(np.float64) * 1e300), "NaN or infinite"),
    "complex": (npy_of(SCENE.astype(np.complex64)), "type complex64"),
    "truth": (npy_of(SCENE > 0), "type bool"),
    "pickle": (_pickled(), "a .npy of objects, which are pickles"),
    "record": (npy_of(np.zeros((4, 4), [("a", "u1")])), "neither integers nor"),
    "npy end": (npy_of(SCENE)[:-1], "truncated or damaged"),
    "npy more": (npy_of(SCENE) + b"0", "truncated or damaged"),
    "npy huge": (_npy_header("(1000000, 1000000, 13)"), "truncated or damaged"),
    "npy negative": (_npy_header("(-1, 4, 13)") + bytes(104), "truncated or"),
    "npy code": (_npy_header("__import__('os').system('touch executed')"), "header"),
    "npy version": (b"\x93NUMPY\x03\x00" + npy_of(SCENE)[8:], "damaged header"),
    "npy short": (b"\x93NUMPY\x01", "damaged header"),
    "tiff end": (_chunky(SCENE, rowsperstrip=4)[:-999], "TIFF: truncated"),
    "tiff tile": (_chunky(SCENE, tile=(16, 16))[:-999], "TIFF: truncated"),
    "tiff pages": (tiff_of(PLANES)[:6000], "no image of 13"),
    "tiff header": (_chunky(SCENE)[:200], "truncated or no image"),
    "empty": (b"", "empty file"),
    "text": (b"<html></html>" * 9, "truncated or no image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, reason = BROKEN[name]
    path = str(write(tmp_path / "a.bin", content))
    for loader in LoadImage(channels=13), LoadRandomResizedCrop(8, channels=13):
        with pytest.raises(BrokenImageError, match="a.bin") as raised:
            loader(dict(img_path=path))
        assert reason in one_line(raised)
    assert not (tmp_path / "executed").exists()


def test_the_pickle_of_this_test_would_run(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        pickle.loads(pickle.dumps(_Bomb()))
    assert (tmp_path / "executed").exists()


def test_bombs_are_not_inflated(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    with pytest.raises(BrokenImageError, match="TIFF: "):
        load(_huge_tiff(), tmp_path)
    for content in (_chunky(SCENE), tiff_of(PLANES), npy_of(SCENE)):
        load(content, tmp_path, max_pixels=24 * 20 * 13)
        with pytest.raises(BrokenImageError, match="raise max_pixels"):
            load(content, tmp_path, max_pixels=24 * 20 * 13 - 1)


def test_what_would_be_inflated_is_known_before(tmp_path: Path) -> None:
    """A tile may be far larger than its image, and is inflated as a whole."""
    pytest.importorskip("imagecodecs")
    tile = dict(tile=(256, 256), compression="zlib")
    content = _chunky(SCENE, **tile)
    load(content, tmp_path, max_pixels=256 * 256 * 13)
    with pytest.raises(BrokenImageError, match=r"in parts of \(256, 256, 13\), more"):
        load(content, tmp_path, max_pixels=256 * 256 * 13 - 1)


def test_broken_ones_are_replaced_and_counted(tmp_path: Path) -> None:
    broken = list(BROKEN.values())
    for i in range(20):
        write(tmp_path / f"{i:02d}.npy", npy_of(np.full((4, 4, 13), i)))
    for i, (content, _) in enumerate(broken):
        write(tmp_path / f"{20 + i:02d}.tif", content)
    write(tmp_path / "90.npy", npy_of(np.full((4, 4, 13), 90)))
    dataset = UnlabeledImages(
        str(tmp_path),
        pipeline=[dict(type="LoadImage", channels=13)],
        extensions=(".npy", ".tif"),
        max_broken_share=0.9,
    )
    values = [int(dataset[i]["img"][0, 0, 0]) for i in range(len(dataset))]
    assert values == [*range(20), *[90] * len(broken), 90]
    assert dataset.broken_indices() == [*range(20, 20 + len(broken))]
    for i, (_, reason) in enumerate(broken):
        said = dataset.describe_broken(20 + i)
        assert f"{20 + i}.tif" in said and reason in said
    dataset.max_broken_share = 0.1
    with pytest.raises(TooManyBrokenImages, match="are broken"):
        dataset.check_broken_share(len(broken), "the last")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(channels=0), "at least 1"),
        (dict(channels=3, bit_depth=12), "values as they are"),
        (dict(channels=3, color_type="grayscale"), "values as they are"),
        (dict(channels=3, imdecode_backend="tifffile"), "values as they are"),
    ],
)
def test_options_that_contradict_each_other(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LoadImage(**options)


def test_photographs_are_as_they_were(tmp_path: Path) -> None:
    """Without the option, .npy and many bands are no images, as before."""
    folder = folder_with_broken(tmp_path, 3, {1})
    write(folder / "a.npy", npy_of(SCENE))
    assert len(UnlabeledImages(str(folder), pipeline=[dict(type="LoadImage")])) == 3
    for content in (npy_of(SCENE), _chunky(SCENE)):
        path = str(write(tmp_path / "a.bin", content))
        for loader in LoadImage(), LoadRandomResizedCrop(8):
            with pytest.raises(BrokenImageError):
                loader(dict(img_path=path))


def test_made_up_images_need_no_channels() -> None:
    crop = dict(type="LoadRandomResizedCrop", scale=8, channels=3, max_pixels=9)
    kept = without_files([crop])
    assert [step["type"] for step in kept] == ["RandomResizedCrop", "RandomFlip"]
    image = np.asarray(Image.fromarray(COLOUR))
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        assert Compose(kept)(dict(img=image))["img"].shape == (8, 8, 3)


def test_jpegs_too(tmp_path: Path) -> None:
    image = load(encoded(), tmp_path, 3)
    wanted = LoadImage()(dict(img_path=str(tmp_path / "a.bin")))["img"]
    np.testing.assert_array_equal(image, wanted)

"""LoadImage: every kind of image, from real files too."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from image_files import LOAD, encoded, names, photo, write
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

from saim_mm.datasets import LoadImage, UnlabeledImages, load_image


def test_every_kind_of_image_becomes_three_channels(tmp_path: Path) -> None:
    image = photo()
    gray = image.convert("L")
    fine = dict(quality=95, subsampling=0)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    clockwise = image.transpose(Image.Transpose.ROTATE_270)
    rgb, three = image, gray.convert("RGB")
    palette = image.quantize(64)
    cases: dict[str, tuple[bytes, Image.Image, int]] = {
        "rgb.jpg": (encoded("JPEG", image, **fine), rgb, 12),
        "progressive.jpg": (
            encoded("JPEG", image, **fine, progressive=True),
            rgb,
            12,
        ),
        "cmyk.jpg": (encoded("JPEG", image.convert("CMYK"), quality=95), rgb, 12),
        "gray.jpg": (encoded("JPEG", gray, quality=95), three, 6),
        "exif.jpg": (encoded("JPEG", image, **fine, exif=rotated), clockwise, 12),
        "deep.png": (encoded("PNG", deep), three, 1),
        "palette.png": (encoded("PNG", palette), palette.convert("RGB"), 0),
        "alpha.png": (encoded("PNG", image.convert("RGBA")), rgb, 0),
        "one.png": (encoded("PNG", photo(1, 1)), photo(1, 1), 0),
        "rgb.webp": (encoded("WEBP", image, lossless=True), rgb, 0),
        "rgb.bmp": (encoded("BMP", image), rgb, 0),
        "rgb.tif": (encoded("TIFF", image), rgb, 0),
        "rgb.ppm": (encoded("PPM", image), rgb, 0),
        "gray.pgm": (encoded("PPM", gray), three, 0),
        "png_named.jpg": (encoded("PNG", image), rgb, 0),  # ImageNet has one
    }
    for name, (content, _, _) in cases.items():
        write(tmp_path / name, content)
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=0)
    assert len(dataset) == len(cases)
    for index, name in enumerate(names(dataset)):
        expected = np.asarray(cases[name][1]).astype(int)
        sample = dataset[index]
        assert sample["img"].dtype == np.uint8, name
        assert sample["img"].shape == expected.shape, name
        assert sample["img_shape"] == sample["ori_shape"] == expected.shape[:2], name
        off = np.abs(sample["img"][..., ::-1] - expected)  # BGR to RGB
        assert off.max() <= cases[name][2], (name, off.max())


def test_load_image_equals_mmcv(tmp_path: Path) -> None:
    info = dict(img_path=str(write(tmp_path / "a.jpg")))
    for options in (dict(), dict(to_float32=True), dict(imdecode_backend="pillow")):
        ours = LoadImage(**options)(dict(info))
        theirs = TRANSFORMS.build(dict(type="LoadImageFromFile", **options))(dict(info))
        assert ours.keys() == theirs.keys()
        assert ours["img"].dtype == theirs["img"].dtype
        np.testing.assert_array_equal(ours["img"], theirs["img"])
        assert ours["img_shape"] == theirs["img_shape"]
        checked = dict(backend_args=dict(backend="checked_image"), **options)
        checked = LoadImageFromFile(**checked)(dict(info))
        np.testing.assert_array_equal(checked["img"], theirs["img"])


def test_whole_jpegs_are_not_called_truncated(tmp_path: Path) -> None:
    thumbnail = encoded("JPEG", photo(8, 8))
    header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    plain = encoded()
    with_thumbnail = plain[:2] + header + plain[2:]
    for content in (plain, with_thumbnail):
        assert not load_image._lacks_jpeg_end(content)
        assert not load_image._lacks_jpeg_end(content + b"\0" * 10)  # padded
        assert not load_image._lacks_jpeg_end(content + b"\xff\xda trailer of a phone")
        for cut in (1, 2, len(plain) // 3):
            assert load_image._lacks_jpeg_end(content[:-cut]), cut
            # An interrupted download into a file that was allocated beforehand.
            assert load_image._lacks_jpeg_end(content[:-cut] + b"\0" * cut), cut
    assert load_image._lacks_jpeg_end(b"\xff\xd8")
    assert load_image._lacks_jpeg_end(b"\xff\xd8\xff")
    assert load_image._lacks_jpeg_end(b"\xff\xd8\xff\xe1\0\0\xff\xe1\0\0")


@pytest.fixture
def imagenet() -> str:
    root = os.environ.get("SAIM_MM_DATA")
    if not root or not os.path.isdir(os.path.join(root, "imagenet", "train")):
        pytest.skip("SAIM_MM_DATA names no folder with imagenet/train")
    return os.path.join(root, "imagenet")


def test_real_photographs_load(imagenet: str) -> None:
    dataset = UnlabeledImages(imagenet, "train", pipeline=LOAD, max_broken_share=0)
    assert len(dataset) == 100
    assert len({os.path.dirname(name) for name in names(dataset)}) == 100
    for index in range(0, 100, 5):
        with Image.open(dataset.get_data_info(index)["img_path"]) as image:
            size = image.size
        assert dataset[index]["img"].shape == (size[1], size[0], 3)

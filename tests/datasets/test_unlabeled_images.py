"""UnlabeledImages: what is found, what loads, what happens to broken files."""

from __future__ import annotations

import copy
import importlib
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from saim_mm.datasets import (
    BrokenImageError,
    LoadImage,
    SampleIndex,
    TooManyBrokenImages,
    UnlabeledImages,
    image_files,
    load_image,
)

LOAD = [dict(type="LoadImage")]


def photo(height: int = 24, width: int = 32, seed: int = 0) -> Image.Image:
    """A smooth picture, so that JPEG keeps it nearly unchanged."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(
    format_: str = "JPEG", image: Image.Image | None = None, **options
) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, format_, **options)
    return buffer.getvalue()


def write(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if content is None else content)
    return path


def folder_with_broken(root: Path, total: int, broken: set[int]) -> Path:
    """Image i is a 1 x (i + 1) PNG, so that its width tells which one it is."""
    for i in range(total):
        whole = encoded("PNG", photo(1, i + 1, seed=i))
        write(root / f"{i:03d}.png", b"<html></html>" if i in broken else whole)
    return root


def names(dataset: UnlabeledImages) -> list[str]:
    root = Path(dataset.img_prefix)
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    return [Path(path).relative_to(root).as_posix() for path in paths]


def width(sample: dict[str, Any]) -> int:
    return sample["img_shape"][1]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- what is found ------------------------------------------------------------------


def test_imagenet_layout_with_any_number_of_classes(tmp_path: Path) -> None:
    files = ["n02/b.JPEG", "n01/c.JPEG", "n01/a.JPEG"]
    for file in files:
        write(tmp_path / "train" / file)
    write(tmp_path / "val" / "x.JPEG")
    dataset = UnlabeledImages(str(tmp_path), "train", pipeline=LOAD)
    assert names(dataset) == sorted(files)
    assert set(dataset.get_data_info(0)) == {"img_path", "sample_idx"}
    as_dict = UnlabeledImages(str(tmp_path), dict(img_path="train"))
    assert names(as_dict) == sorted(files)


def test_nested_folder_without_litter(tmp_path: Path) -> None:
    kept = ["0.jpg", "B.PNG", "deep/er/c.WebP", "name with space/d.tiff", "x.jpg/e.bmp"]
    for file in [*kept, ".hidden.jpg", ".git/f.jpg", "__MACOSX/g.jpg", "deep/._h.jpg"]:
        write(tmp_path / file)
    for file in ["readme.txt", "deep/i.gif", "jpg"]:
        write(tmp_path / file)
    assert names(UnlabeledImages(str(tmp_path))) == sorted(kept)
    assert image_files.list_images(str(tmp_path)) == (sorted(kept), 3)
    only_gif = UnlabeledImages(str(tmp_path), extensions=[".GIF"])
    assert names(only_gif) == ["deep/i.gif"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "far.jpg")
    write(tmp_path / "root" / "a" / "near.jpg")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "link2").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "self.jpg").symlink_to(tmp_path / "root" / "self.jpg")
    (tmp_path / "root" / "nowhere.jpg").symlink_to(tmp_path / "missing.jpg")
    dataset = UnlabeledImages(str(tmp_path / "root"))
    assert names(dataset) == ["a/near.jpg", "link/far.jpg", "nowhere.jpg", "self.jpg"]


def test_order_does_not_depend_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ["b/1.jpg", "a/2.jpg", "c.jpg", "a/0.jpg"]:
        write(tmp_path / file)
    (tmp_path / "0link").symlink_to(tmp_path / "b")
    expected = image_files.list_images(str(tmp_path))
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry]:
            return self.entries

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(image_files.os, "scandir", Reversed)
    assert image_files.list_images(str(tmp_path)) == expected
    assert expected[0] == ["0link/1.jpg", "a/0.jpg", "a/2.jpg", "c.jpg"]


@pytest.mark.parametrize("label", ["", " 0", "\t17", " some_class"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_annotation_file(tmp_path: Path, label: str, end: str) -> None:
    files = ["n02/b c.JPEG", "n01/a.JPEG", "n01/\u00e9t\u00e9 2.png"]
    for file in files:
        write(tmp_path / "train" / file)
    text = "".join(file + label + end for file in files) + end
    write(tmp_path / "meta" / "train.txt", text.encode())
    dataset = UnlabeledImages(str(tmp_path), "train", "meta/train.txt", pipeline=LOAD)
    assert names(dataset) == files  # as listed, not sorted
    assert dataset[0]["img"].shape == (24, 32, 3)


def test_undecodable_file_name(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"  # latin-1, not UTF-8
    (tmp_path / os.fsdecode(name)).write_bytes(encoded())
    assert UnlabeledImages(str(tmp_path), pipeline=LOAD)[0]["img"].shape == (24, 32, 3)
    write(tmp_path / "list.txt", name + b"\n")
    dataset = UnlabeledImages(str(tmp_path), ann_file="list.txt", pipeline=LOAD)
    assert dataset[0]["img"].shape == (24, 32, 3)


def test_indices_and_subsets_have_their_own_flags(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 6, {1})
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, indices=4)
    assert len(dataset) == len(dataset.broken) == 4
    assert width(dataset[1]) == 3
    subset = dataset.get_subset([1, 3])
    assert (len(subset.broken), subset.broken.is_shared()) == (2, True)
    assert (subset.broken_indices(), dataset.broken_indices()) == ([], [1])
    dataset.get_subset_([3, 1])
    assert (len(dataset.broken), width(dataset[1])) == (2, 4)


def test_a_copy_has_shared_flags_of_its_own(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 3, set())
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD)
    dataset.mark_broken([1])
    twin = copy.deepcopy(dataset)
    twin.mark_broken([2])
    assert twin.broken.is_shared()
    assert (dataset.broken_indices(), twin.broken_indices()) == ([1], [1, 2])
    lazy = copy.deepcopy(UnlabeledImages("nowhere", lazy_init=True))
    assert not hasattr(lazy, "broken")


def test_lazy_init_looks_for_nothing(tmp_path: Path) -> None:
    dataset = UnlabeledImages(str(tmp_path / "later"), lazy_init=True, pipeline=LOAD)
    folder_with_broken(tmp_path / "later", 2, set())
    dataset.full_init()
    assert (len(dataset), dataset.broken.tolist()) == (2, [0, 0])


@pytest.mark.parametrize("scope", ["mmengine", "mmpretrain", "mmdet", "mmseg"])
def test_bare_names_resolve(tmp_path: Path, scope: str) -> None:
    write(tmp_path / "a.jpg")
    try:
        # Their transforms are imported by the first look-up in their scope.
        importlib.import_module(
            "mmengine" if scope == "mmengine" else f"{scope}.datasets"
        )
    except Exception as error:  # mmdet and mmseg assert the versions they accept
        pytest.skip(f"{scope} does not import: {error}")
    options = dict(data_root=str(tmp_path), pipeline=LOAD)
    with DefaultScope.overwrite_default_scope(scope):
        for name in ("UnlabeledImages", "saim_mm.UnlabeledImages"):
            dataset = DATASETS.build(dict(type=name, **options))
            assert type(dataset) is UnlabeledImages
            assert type(dataset.pipeline.transforms[0]) is LoadImage


# --- mistakes of the user -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(data_prefix="none"), FileNotFoundError, "does not exist"),
        (dict(data_root="/no/such"), FileNotFoundError, "'/no/such/' does not exist"),
        (dict(data_prefix="full/a.jpg"), ValueError, "is a file"),
        (dict(data_prefix="empty"), ValueError, r"\(2 other files were seen\)"),
        (dict(data_root=""), ValueError, "set data_root"),
        (dict(ann_file="no.txt"), FileNotFoundError, "no.txt' does not exist"),
        (dict(ann_file="full"), FileNotFoundError, "full' does not exist"),
        (dict(ann_file="blank.txt"), ValueError, "blank.txt' is empty"),
        (dict(ann_file="gap.txt"), ValueError, "line 2 of .*gap.txt' names no image"),
        (dict(ann_file="label.txt"), ValueError, "line 2 .*: 'b.jpg 0'"),
        (dict(ann_file="text.txt"), ValueError, "line 1 .*: 'hello world'"),
        (dict(ann_file="lost.txt"), FileNotFoundError, "line 2 .*/full/b.jpg'"),
        (dict(data_prefix="s3://x/y"), ValueError, "list them in an ann_file"),
        (dict(max_broken_share=1.5), ValueError, r"=1.5 must be in \[0, 1\]"),
        (dict(max_broken_share=float("nan")), ValueError, "=nan must be"),
        (dict(extensions=".jpg"), ValueError, "must be a list"),
        (dict(extensions=["jpg"]), ValueError, "begin with a dot"),
    ],
)
def test_mistakes_end_when_built(
    tmp_path: Path, options: dict, error: type[Exception], words: str
) -> None:
    write(tmp_path / "full" / "a.jpg")
    write(tmp_path / "empty" / "sub" / "notes.txt", b"")
    write(tmp_path / "empty" / "b.gif", b"")
    lists = dict(
        blank=" \n\n",
        gap="a.jpg\n\na.jpg\n",
        label="a.jpg\nb.jpg 0\n",
        text="hello world\n",
        lost="a.jpg\nb.jpg\n",
    )
    for name, text in lists.items():
        write(tmp_path / f"{name}.txt", text.encode())
    options = {"data_root": str(tmp_path), **options}
    if "ann_file" in options:
        options["data_prefix"] = "full"
    with pytest.raises(error, match=words) as raised:
        UnlabeledImages(**options)
    one_line(raised)


def test_unknown_option_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="max_broken_shar"):
        UnlabeledImages(str(tmp_path), max_broken_shar=0.1)


# --- what loads ---------------------------------------------------------------------


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


# --- broken files -------------------------------------------------------------------

BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "html": (lambda p: p.write_text("<!DOCTYPE html>"), "no image: 15 bytes"),
    "empty": (lambda p: p.write_bytes(b""), "empty file"),
    "dangling": (lambda p: p.symlink_to("nowhere.jpg"), "No such file or directory"),
    "loop": (lambda p: p.symlink_to(p), "Too many levels of symbolic links"),
    "folder": (lambda p: p.mkdir(), "Is a directory"),
    "half jpeg": (lambda p: p.write_bytes(encoded()[:400]), "truncated JPEG"),
    "jpeg without end": (lambda p: p.write_bytes(encoded()[:-2]), "truncated JPEG"),
    "half png": (
        lambda p: p.write_bytes(encoded("PNG")[:300]),
        "truncated or no image",
    ),
    "half webp": (
        lambda p: p.write_bytes(encoded("WEBP")[:80]),
        "truncated or no image",
    ),
    "denied": (lambda p: p.touch(), "Permission denied"),
}


@pytest.mark.parametrize("loader", ["LoadImage", "LoadImageFromFile"])
@pytest.mark.parametrize("kind", BREAK)
def test_broken_file_is_replaced_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, loader: str
) -> None:
    damage, reason = BREAK[kind]
    for name, seed in (("a.jpg", 1), ("c.jpg", 2)):
        write(tmp_path / name, encoded(image=photo(5, 3 + seed, seed)))
    damage(tmp_path / "b.jpg")
    if kind == "denied":  # by hand: root may read everything
        get = load_image.fileio.get

        def guarded(path: str, **options: Any) -> bytes:
            if path.endswith("b.jpg"):
                raise PermissionError(13, "Permission denied", path)
            return get(path, **options)

        monkeypatch.setattr(load_image.fileio, "get", guarded)
    write(tmp_path / "list.txt", b"a.jpg\nb.jpg\nc.jpg\n")
    options = dict(ann_file="list.txt", pipeline=[dict(type=loader)])
    dataset = UnlabeledImages(str(tmp_path), **options)
    if loader == "LoadImageFromFile" and kind == "jpeg without end":
        pytest.skip("what OpenCV makes of it depends on its version")
    assert [width(dataset[i]) for i in range(3)] == [4, 5, 5]
    assert dataset[1]["sample_idx"] == 2  # names what was really loaded
    assert dataset.broken.tolist() == [0, 1, 0]
    if loader == "LoadImage":
        assert reason in dataset.describe_broken(1)
        assert repr(str(tmp_path / "b.jpg")) in dataset.describe_broken(1)
    testing = UnlabeledImages(str(tmp_path), **options, test_mode=True)
    with pytest.raises(BrokenImageError, match="b.jpg"):
        testing[1]
    assert testing.broken_indices() == []


def test_replacement_is_the_next_that_loads_and_wraps_around(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 8, {2, 3, 7})
    expected = [1, 2, 5, 5, 5, 6, 7, 1]
    for order in (range(8), range(7, -1, -1), [3, 2, 7, 0, 1, 4, 5, 6]):
        dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=0.5)
        assert {i: width(dataset[i]) for i in order} == dict(enumerate(expected))
        assert dataset.broken_indices() == [2, 3, 7]
    assert width(dataset[-1]) == expected[-1]
    with pytest.raises(IndexError):
        dataset[8]


def test_marked_images_are_not_read_again(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 4, set())
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD)
    dataset.mark_broken([1])
    assert [width(dataset[i]) for i in range(4)] == [1, 3, 3, 4]
    assert "loads now" in dataset.describe_broken(1)


@pytest.mark.parametrize(
    ("total", "share", "allowed"),
    [(10, 1e-3, 1), (10, 0, 0), (10, 0.25, 2), (2000, 1e-3, 2), (1, 1.0, 1)],
)
def test_allowed_number(tmp_path: Path, total: int, share: float, allowed: int) -> None:
    text = "".join(f"{i}.jpg\n" for i in range(total))
    write(tmp_path / "list.txt", text.encode())
    dataset = UnlabeledImages(
        data_prefix="s3://nowhere",
        ann_file=str(tmp_path / "list.txt"),
        max_broken_share=share,
    )
    assert dataset.max_broken == allowed


def test_past_the_share_is_an_error_that_names_all(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 10, {2, 5, 7})
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=0.2)
    assert [width(dataset[i]) for i in range(7)] == [1, 2, 4, 4, 5, 7, 7]
    with pytest.raises(TooManyBrokenImages) as raised:
        dataset[7]
    message = one_line(raised)
    for part in ("3 of 10", "30.00%", "0.2 allows 2", "007.png", "no image: 13 bytes"):
        assert part in message


@pytest.mark.parametrize("share", [0, 1e-3, 1.0])
@pytest.mark.parametrize(
    "workers",
    # torch may wait 5 s for each worker of a loop that an error ended.
    [0, pytest.param(2, marks=pytest.mark.slow)],
)
def test_nothing_but_broken_files_ends(
    tmp_path: Path, share: float, workers: int
) -> None:
    folder_with_broken(tmp_path, 20, set(range(20)))
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=share)
    with pytest.raises(TooManyBrokenImages, match="of (the )?20 images"):
        list(DataLoader(dataset, num_workers=workers, collate_fn=list))


class FailsOn:
    """A later transform with a bug."""

    def __init__(self, answer: Exception | None) -> None:
        self.answer = answer

    def __call__(self, results: dict) -> dict | None:
        if self.answer is not None:
            raise self.answer
        return None


def test_errors_of_later_transforms_propagate(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 3, set())
    bug = UnlabeledImages(str(tmp_path), pipeline=[*LOAD, FailsOn(KeyError("bug"))])
    with pytest.raises(KeyError, match="bug"):
        bug[0]
    rejects = UnlabeledImages(str(tmp_path), pipeline=[*LOAD, FailsOn(None)])
    with pytest.raises(RuntimeError, match="FailsOn .*returned None for image 1"):
        rejects[1]
    assert bug.broken_indices() == rejects.broken_indices() == []


def test_loader_that_returns_none_means_broken(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 3, {1})
    quiet = dict(type="LoadImageFromFile", ignore_empty=True)
    os.remove(tmp_path / "001.png")
    (tmp_path / "001.png").symlink_to("nowhere")
    dataset = UnlabeledImages(str(tmp_path), pipeline=[quiet])
    assert width(dataset[1]) == 3
    assert "LoadImageFromFile returned None" in dataset.describe_broken(1)


def test_no_pipeline_gives_the_paths(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"")
    assert UnlabeledImages(str(tmp_path))[0] == dict(
        img_path=os.path.join(tmp_path, "a.jpg"), sample_idx=0
    )


@pytest.mark.parametrize(
    "workers",
    [
        None,
        "fork",
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_replace_alike_and_share_the_flags(
    tmp_path: Path, workers: str | None
) -> None:
    folder_with_broken(tmp_path, 12, {0, 5, 6, 11})
    dataset = UnlabeledImages(str(tmp_path), pipeline=LOAD, max_broken_share=0.5)
    loader = DataLoader(
        dataset,
        batch_size=3,
        collate_fn=list,
        num_workers=2 if workers else 0,
        multiprocessing_context=workers,
        persistent_workers=workers is not None,
    )
    expected = [2, 2, 3, 4, 5, 8, 8, 8, 9, 10, 11, 2]
    assert [width(s) for batch in loader for s in batch] == expected
    assert dataset.broken_indices() == [0, 5, 6, 11]
    # The other way round: workers that live on see what is marked here.
    dataset.mark_broken([1])
    assert [width(s) for batch in loader for s in batch] == [3, 3, *expected[2:-1], 3]


# --- real photographs ---------------------------------------------------------------


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


def test_warnings_of_mmengine_do_not_show(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Building must not go through mmengine's 'not fully initialised' path."""
    folder_with_broken(tmp_path, 2, set())
    with caplog.at_level(logging.WARNING):
        len(UnlabeledImages(str(tmp_path), pipeline=LOAD))
    assert not re.search("fully_initialized", caplog.text)


# --- randomness that follows from the sample ----------------------------------------

FLIP = [*LOAD, dict(type="RandomFlip", prob=0.5)]


def flips(dataset: UnlabeledImages, indices: list[int]) -> list[bool]:
    return [dataset[index]["flip"] for index in indices]


def test_flip_is_a_function_of_the_sample(tmp_path: Path) -> None:
    """Whatever was drawn before, and the generators stay as they were."""
    folder_with_broken(tmp_path, 30, set())
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = UnlabeledImages(str(tmp_path), pipeline=FLIP)
    indices = [SampleIndex(i, seed=1, epoch=0) for i in range(30)]
    first = flips(dataset, indices)
    assert 5 < sum(first) < 25
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    assert flips(dataset, indices[::-1])[::-1] == first
    assert np.random.rand() == expected
    assert flips(dataset, [SampleIndex(i, seed=1, epoch=1) for i in range(30)]) != first
    assert flips(dataset, list(range(30))) != flips(dataset, list(range(30)))


def test_replacement_is_cropped_alike_whether_or_not_it_is_known(
    tmp_path: Path,
) -> None:
    """A loader that draws before it fails moves the generators on the first time."""

    class Drawing(LoadImage):
        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            results["drawn"] = np.random.rand()
            return super().transform(results)

    folder_with_broken(tmp_path, 5, {3})
    dataset = UnlabeledImages(str(tmp_path), pipeline=[Drawing()])
    index = SampleIndex(3, seed=1, epoch=0)
    first = dataset[index]["drawn"]
    assert dataset.broken_indices() == [3]
    assert dataset[index]["drawn"] == first


def test_replacement_is_flipped_as_the_broken_image(tmp_path: Path) -> None:
    folder_with_broken(tmp_path, 30, {3})
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = UnlabeledImages(str(tmp_path), pipeline=FLIP)
    for epoch in range(20):
        sample = dataset[SampleIndex(3, seed=1, epoch=epoch)]
        assert (width(sample), sample["sample_idx"]) == (5, 4)
        assert sample["sample_idx"].requested == 3
        same = dataset[SampleIndex(4, seed=1, epoch=epoch, requested=3)]
        assert sample["flip"] == same["flip"]

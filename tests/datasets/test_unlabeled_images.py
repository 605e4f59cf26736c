"""UnlabeledImages: what is found, what is refused, what follows from the sample."""

from __future__ import annotations

import copy
import importlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import LOAD, encoded, folder_with_broken, names, one_line, width, write
from mmengine.registry import DATASETS, DefaultScope

from saim_mm.datasets import LoadImage, SampleIndex, UnlabeledImages, image_files


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
    assert image_files.list_images(str(tmp_path)) == (
        sorted(kept),
        {".txt": 1, ".gif": 1, "without a suffix": 1},
    )
    only_gif = UnlabeledImages(str(tmp_path), extensions=[".GIF"])
    assert names(only_gif) == ["deep/i.gif"]


def test_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(image_files, "warn", logged.append)
    for index in range(3):
        write(tmp_path / f"{index}.jfif")
        write(tmp_path / f"IMG{index}")
        write(tmp_path / f"frame.{index:04d}")
    for kept in ("a.JPG", "b.jpeg"):
        write(tmp_path / kept)
    write(tmp_path / os.fsdecode(b"c.\xff\n"))
    assert names(UnlabeledImages(str(tmp_path))) == ["a.JPG", "b.jpeg"]
    (line,) = logged
    assert "2 images; 10 left out" in line and "\n" not in line
    for part in ("3 .jfif", "3 without a suffix", "4 of other suffixes"):
        assert part in line
    logged.clear()
    everything = UnlabeledImages(str(tmp_path), pipeline=LOAD, extensions=[""])
    assert len(everything) == 12 and not logged
    assert all(everything[index]["img_shape"] == (24, 32) for index in range(12))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), None])
def test_an_unreadable_folder_does_not_end_the_search(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(image_files, "warn", logged.append)
    scandir = os.scandir

    def denying(path: str) -> object:  # by hand: root may read everything
        if path.endswith("/b/"):
            if error is None:
                os.rmdir(path)  # by somebody else, meanwhile
            else:
                raise error
        return scandir(path)

    for file in ("a/1.jpg", "c/2.jpg"):
        write(tmp_path / file)
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(os, "scandir", denying)
    assert names(UnlabeledImages(str(tmp_path))) == ["a/1.jpg", "c/2.jpg"]
    reason = "Permission denied" if error else "No such file or directory"
    assert logged[0] == f"{str(tmp_path)!r}/b/ is left out: {reason}".replace(
        "'/b/", "/b/'"
    )
    assert "1 unreadable folders" in logged[1]
    with pytest.raises(OSError):
        image_files.list_images(str(tmp_path / "b") + "/")


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


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(data_prefix="none"), FileNotFoundError, "does not exist"),
        (dict(data_root="/no/such"), FileNotFoundError, "'/no/such/' does not exist"),
        (dict(data_prefix="full/a.jpg"), ValueError, "is a file"),
        (
            dict(data_prefix="empty"),
            ValueError,
            r"2 left out \(1 \.gif, 1 \.txt\)",
        ),
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


def test_warnings_of_mmengine_do_not_show(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Building must not go through mmengine's 'not fully initialised' path."""
    folder_with_broken(tmp_path, 2, set())
    with caplog.at_level(logging.WARNING):
        len(UnlabeledImages(str(tmp_path), pipeline=LOAD))
    assert not re.search("fully_initialized", caplog.text)


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

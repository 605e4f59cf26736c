"""Shards give what the library finds in them, and lose no run, whatever they are."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import mmengine.fileio as fileio
import pytest
from image_files import LOAD, encoded, folder_with_broken, photo, width, write
from sources import as_shards, check_same_samples, write_shard

from saim_mm.datasets import (
    BrokenImageError,
    TooManyBrokenImages,
    UnlabeledImages,
    WebDatasetImages,
    webdataset_images,
)
from saim_mm.datasets.webdataset_images import shard_samples

JPEG = encoded()
CROP = dict(type="LoadRandomResizedCrop", scale=16, flip_prob=0.5)


def png(columns: int) -> bytes:
    """An image whose width tells which one it is."""
    return encoded("PNG", photo(2, columns))


def widths(dataset: UnlabeledImages) -> list[int]:
    return [width(dataset[i]) for i in range(len(dataset))]


# --- what is served -----------------------------------------------------------------


def test_what_the_library_writes_and_reads(tmp_path: Path) -> None:
    """Names, labels, folders and dots as they come; the library is the reference."""
    webdataset = pytest.importorskip("webdataset")
    shards = [tmp_path / f"set-{number:04d}.tar" for number in range(3)]
    for number, shard in enumerate(shards):
        with webdataset.TarWriter(str(shard)) as writer:
            for index in range(4):
                writer.write({
                    "__key__": f"part.{number}/deep/{index:05d}",
                    "cls": index,
                    "JPG" if index == 1 else "jpg": encoded(image=photo(seed=index)),
                    "seg.png": png(index + 1),
                    "meta.json": dict(index=index),
                    "pyd": dict(pickled=True),
                })  # fmt: skip
    urls = [str(shard) for shard in shards]
    for suffix in ("jpg", "seg.png"):
        reader = webdataset.WebDataset(urls, shardshuffle=False)
        dataset = WebDatasetImages(str(tmp_path), extensions=[f".{suffix}"])
        found = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
        samples = list(reader)
        assert len(samples) == len(found) == 12
        for sample, path in zip(samples, found, strict=True):
            assert fileio.get(path) == sample[suffix]
            assert Path(sample["__url__"]).name in path
            assert f"/{sample['__key__']}." in path


@pytest.mark.parametrize("loader", [dict(type="LoadImageFromFile"), *LOAD, CROP])
@pytest.mark.parametrize("workers", [0, 2])
def test_same_samples_as_the_folder(
    loader: dict[str, Any], workers: int, tmp_path: Path
) -> None:
    folder = folder_with_broken(tmp_path / "images", 7, {2})
    data = as_shards(folder, tmp_path / "shards" / "nested", per_shard=3).parent
    check_same_samples(folder, data, WebDatasetImages, loader, workers)


def test_list_of_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", {"a.png": png(number + 1)})
    (tmp_path / "list.txt").write_text("2.tar\n0.tar\n")
    options = dict(pipeline=LOAD, ann_file="list.txt")
    assert widths(WebDatasetImages(str(tmp_path), **options)) == [3, 1]
    (tmp_path / "list.txt").write_text("3.tar\n")
    with pytest.raises(FileNotFoundError, match=r"line 1 of .* names .*3\.tar"):
        WebDatasetImages(str(tmp_path), **options)


def test_one_image_of_a_sample(tmp_path: Path) -> None:
    """The order of the suffixes decides, not that of the files."""
    files = {"a.png": png(1), "a.jpg": encoded(image=photo(2, 2)), "b.png": png(3)}
    write_shard(tmp_path / "0.tar", files)
    assert widths(WebDatasetImages(str(tmp_path), pipeline=LOAD)) == [2, 3]
    options = dict(pipeline=LOAD, extensions=[".PNG", ".jpg"])
    assert widths(WebDatasetImages(str(tmp_path), **options)) == [1, 3]


def test_what_is_no_sample(tmp_path: Path) -> None:
    """Folders, links, hidden files and the library's own notes."""
    path = tmp_path / "0.tar"
    files = {"._a.jpg": b"mac", "__meta__/x.jpg": JPEG, "README": b"?", "a.jpg": JPEG}
    write_shard(path, files)
    with tarfile.open(path, "a:") as tar:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (sample,) = shard_samples(path, [".jpg"])
    assert sample["img_path"].endswith(f"+{len(JPEG)}/a.jpg")


def test_nothing_is_written_or_run(tmp_path: Path) -> None:
    """Names that lead out of the folder are names, and pickles are bytes."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    names = ("/abs.png", "../up.png", "a/../../b.png")
    files = {name: png(number + 1) for number, name in enumerate(names)}
    for suffix in ("pyd", "pickle", "pkl", "pth"):
        files |= {f"a/../../b.{suffix}": pickle.dumps(Bomb())}
    write_shard(tmp_path / "shards" / "0.tar", files)
    dataset = WebDatasetImages(str(tmp_path / "shards"), pipeline=LOAD)
    assert widths(dataset) == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


# --- what is broken -----------------------------------------------------------------


def test_broken_samples_are_broken_images(tmp_path: Path) -> None:
    files = {
        "0.png": png(1),
        "1.json": b"{}",
        "1.cls": b"1",
        "2.jpg": JPEG[:-60],
        "3.png": b"",
        "4.png": png(5),
    }
    write_shard(tmp_path / "0.tar", files)
    dataset = WebDatasetImages(str(tmp_path), pipeline=LOAD, max_broken_share=0.9)
    assert widths(dataset) == [1, 5, 5, 5, 5]
    assert dataset.broken_indices() == [1, 2, 3]
    reasons = [dataset.broken_reason(index) for index in (1, 2, 3)]
    assert reasons[0] == "no image among the files of the sample: .json, .cls"
    assert reasons[1].startswith("truncated JPEG")
    assert reasons[2] == "empty file"
    assert "0.tar#0+0/1'" in dataset.describe_broken(1)
    dataset = WebDatasetImages(str(tmp_path), pipeline=LOAD)
    with pytest.raises(TooManyBrokenImages, match="raise max_broken_share"):
        widths(dataset)


def spoil(path: Path, how: str) -> int:
    """Spoils the third sample of a shard; how many are found, by what follows them."""
    content = path.read_bytes()
    if how == "unreadable":
        path.unlink()
        path.symlink_to("nowhere.tar")
        return 0
    if how == "gzip":
        path.write_bytes(gzip.compress(content))
        return 0
    with tarfile.open(path) as tar:
        start = tar.getmembers()[2].offset
    if how == "breaks off":
        path.write_bytes(content[: start + 600])
        return 2
    if how == "damaged header":
        path.write_bytes(content[:start] + b"x" * 512 + content[start + 512 :])
        return 1
    assert how == "leads back"
    info = tarfile.TarInfo("2.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = struct.pack(">i8s", -1, struct.pack(">q", -(start + 512)))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(content[:start] + header + content[start + 512 :])
    return 1


@pytest.mark.parametrize(
    "how", ["unreadable", "gzip", "breaks off", "damaged header", "leads back"]
)
def test_bad_shards_are_one_broken_image(how: str, tmp_path: Path) -> None:
    """And those beside them stay in use."""
    for shard in range(3):
        files = {f"{i}.png": png(10 * shard + i + 1) for i in range(3)}
        write_shard(tmp_path / f"{shard}.tar", files)
    whole = spoil(tmp_path / "1.tar", how)
    dataset = WebDatasetImages(str(tmp_path), pipeline=LOAD)
    found = widths(dataset)
    # In place of the broken one, the next one.
    assert found == [1, 2, 3, *range(11, 11 + whole), 21, 21, 22, 23]
    broken = dataset.broken_indices()
    assert broken == [3 + whole]
    assert "the shard, or its rest, is no tar file" in dataset.broken_reason(broken[0])
    assert "1.tar" in dataset.describe_broken(broken[0])
    dataset.test_mode = True
    with pytest.raises(BrokenImageError):
        dataset[broken[0]]


def test_what_is_lost_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(webdataset_images, "warn", logged.append)
    write_shard(tmp_path / "0.tar", {"a.png": png(1), "b.txt": b"x", "c.png": png(2)})
    WebDatasetImages(str(tmp_path))
    (line,) = logged
    assert line.startswith("no image in 1 samples or ends of shards") and ".txt" in line
    shard = write_shard(tmp_path / "1.tar", {"d.png": png(1), "e.png": png(2)})
    shard.write_bytes(shard.read_bytes()[:1500])
    WebDatasetImages(str(tmp_path))
    assert logged[1].startswith("no image in 2 samples or ends of shards")


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.TAR.zst"])
def test_compressed_shards(name: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"a.png": png(1)})
    write(tmp_path / name, gzip.compress(b"tar"))
    with pytest.raises(ValueError) as caught:
        WebDatasetImages(str(tmp_path))
    message = str(caught.value)
    assert repr(name) in message and "neither shuffle nor go on" in message
    assert "gunzip" in message


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (None, {}, r"no shard \(\*.tar\) in"),
        ({}, {}, "hold no sample"),
        (
            {"a.txt": b"x"},
            {},
            "no image among the files of the sample: .txt.*extensions",
        ),
        (
            {"a.jpg": JPEG},
            dict(extensions=[".png"]),
            "of the sample: .jpg.*out of .png",
        ),
        ({"a.jpg": JPEG}, dict(data_prefix="no"), "no' does not exist"),
    ],
)
def test_folders_of_no_use(
    files: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if files is not None:
        write_shard(tmp_path / "0.tar", files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        WebDatasetImages(str(tmp_path), **options)

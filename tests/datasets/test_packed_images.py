"""Packs serve what their folder serves, and nothing that their index denies."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.fileio as fileio
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from saim_mm.datasets import PackedImages, UnlabeledImages, packed_images
from saim_mm.datasets.image_files import open_regular
from saim_mm.datasets.load_image import MAX_BYTES, BrokenImageError
from saim_mm.datasets.packed_images import (
    Manifest,
    Member,
    PackError,
    TarBackend,
    check_name,
    names_checksum,
    read_index,
    shard_path,
    tar_path,
    verify_tar,
    write_index,
    write_tar,
)
from saim_mm.datasets.packing import verify_pack
from saim_mm.utils.sample_index import SampleIndex

LOAD = [dict(type="LoadImage")]
CROP = dict(scale=16, crop_ratio_range=(0.5, 1.0), flip_prob=0.5)
#: With a name that is not UTF-8, and one longer than a plain tar header takes.
NAMES = [
    "n01/a.jpg",
    "n01/b.JPEG",
    "n02/broken.jpg",
    "n02/" + "long" * 40 + ".jpg",
    "n02/odd \udcff\n.png",
]


def encoded(number: int, kind: str) -> bytes:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((40 + number, 30)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of images, one of them broken."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "PNG" if name.endswith("png") else "JPEG"))
    (tmp_path / "source" / NAMES[2]).write_bytes(b"<html>")
    return tmp_path / "source"


@pytest.fixture
def pack(source: Path, tmp_path: Path) -> Path:
    """The same images in three tar files."""
    folder = tmp_path / "pack"
    folder.mkdir()
    plan = Manifest(len(NAMES), 2, names_checksum(NAMES), complete=True)
    for number in range(plan.shards):
        names = NAMES[2 * number : 2 * number + 2]
        shard = shard_path(folder, number)
        with shard.open("wb") as file:
            members = write_tar(file, names, lambda name: (source / name).read_bytes())
        write_index(shard, members)
    plan.write(folder)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- what is served -----------------------------------------------------------------


def test_pack_is_a_standard_tar(source: Path, pack: Path) -> None:
    found = {}
    for shard in sorted(pack.glob("*.tar")):
        with tarfile.open(shard, encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                assert info.isreg()
                found[info.name] = tar.extractfile(info).read()
    assert found == {name: (source / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize(
    ("loader", "workers"),
    [
        (dict(type="LoadImage"), 0),
        (dict(type="LoadImageFromFile"), 0),  # mmpretrain's, knows nothing of packs
        (dict(type="LoadRandomResizedCrop", **CROP), 0),
        (dict(type="LoadRandomResizedCrop", **CROP), 2),
    ],
)
def test_same_samples_as_the_folder(
    source: Path, pack: Path, loader: dict[str, Any], workers: int
) -> None:
    options = dict(pipeline=[loader], max_broken_share=0.2)
    served = []
    for root, kind in ((source, UnlabeledImages), (pack, PackedImages)):
        dataset = kind(str(root), **options)
        dataset[0]  # so that forked workers get open files
        indices = [SampleIndex(i, seed=3, epoch=1) for i in range(len(dataset))]
        loaded = DataLoader(
            dataset, sampler=indices, batch_size=None, num_workers=workers,
            collate_fn=dict, multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        samples = list(loaded)
        served.append([(s["sample_idx"], s["img"], s.get("flip")) for s in samples])
        assert dataset.broken_indices() == [2]
    assert len(served[0]) == len(NAMES)
    for folder, packed in zip(*served, strict=True):
        assert folder[0] == packed[0]
        assert folder[2] == packed[2]
        np.testing.assert_array_equal(folder[1], packed[1])


def test_broken_member_is_named(pack: Path) -> None:
    dataset = PackedImages(str(pack), pipeline=LOAD, test_mode=True)
    with pytest.raises(BrokenImageError) as raised:
        dataset[2]
    assert "images-00001.tar#" in str(raised.value)
    assert "+6/n02/broken.jpg" in str(raised.value)
    assert "no image: 6 bytes that begin with b'<html>'" in str(raised.value)


def test_list_of_members(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("n01/b.JPEG 1\nn01/a.jpg 1\n")
    options = dict(pipeline=LOAD, ann_file=str(tmp_path / "list.txt"))
    dataset = PackedImages(str(pack.parent), "pack", **options)
    assert [dataset[i]["img_shape"][1] for i in range(2)] == [41, 40]
    (tmp_path / "list.txt").write_text("n01/b.JPEG\nn01/c.jpg\n")
    with pytest.raises(PackError, match=r"lists 'n01/c.jpg', and 0 more"):
        PackedImages(str(pack), **options)


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a//b.jpg", "./a.jpg", "", 3]
)
def test_names_cannot_leave_their_folder(name: Any, pack: Path) -> None:
    with pytest.raises(PackError, match="is refused"):
        check_name(name)
    with pytest.raises(PackError, match="is refused"):
        write_tar(io.BytesIO(), [name], lambda name: b"")
    index = pack / "images-00001.json"
    edit(index, lambda content: content["members"][0].__setitem__(0, name))
    with pytest.raises(PackError, match="is refused"):
        PackedImages(str(pack))


@pytest.mark.parametrize(
    ("field", "value"),
    [(1, -512), (1, 10**9), (1, "512"), (1, 1.5), (2, -1), (2, 10**9), (2, None)],
)
def test_entries_outside_the_tar_file(field: int, value: Any, pack: Path) -> None:
    index = pack / "images-00001.json"
    edit(index, lambda content: content["members"][1].__setitem__(field, value))
    with pytest.raises(PackError, match="outside of the .* bytes of images-00001.tar"):
        PackedImages(str(pack))


def drop(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])


BAD_PACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut tar": (
        lambda pack: drop(pack / "images-00000.tar", 9000),
        "has 9000 bytes and should have 10240",
    ),
    "cut index": (
        lambda pack: drop(pack / "images-00000.json", 90),
        "is no whole JSON file",
    ),
    "short entry": (
        lambda pack: edit(
            pack / "images-00000.json", lambda content: content["members"][0].pop()
        ),
        "an entry is no name, offset, size, sha256",
    ),
    "other version": (
        lambda pack: edit(pack / "pack.json", lambda content: content.update(format=9)),
        "is not of format 1",
    ),
    "no key": (
        lambda pack: edit(pack / "pack.json", lambda content: content.pop("images")),
        "has no images",
    ),
    "no number": (
        lambda pack: edit(pack / "pack.json", lambda c: c.update(images_per_shard=0)),
        "images_per_shard=0; both must be positive",
    ),
    "not complete": (
        lambda pack: edit(pack / "pack.json", lambda c: c.update(complete=False)),
        "is not complete; repeat the command",
    ),
    "mixed": (
        lambda pack: edit(
            pack / "images-00000.json", lambda content: content["members"].reverse()
        ),
        "do not hold the 5 images",
    ),
}


@pytest.mark.parametrize("kind", BAD_PACKS)
def test_bad_packs_are_refused_when_built(kind: str, pack: Path) -> None:
    damage, message = BAD_PACKS[kind]
    PackedImages(str(pack))
    damage(pack)
    with pytest.raises(PackError, match=message):
        PackedImages(str(pack))


def test_missing_files_are_named(pack: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no pack.json"):
        PackedImages(str(pack.parent))
    os.remove(pack / "images-00002.tar")
    with pytest.raises(FileNotFoundError, match="images-00002.tar"):
        PackedImages(str(pack))


def test_verification_finds_a_flipped_bit(pack: Path) -> None:
    shard = pack / "images-00000.tar"
    members = read_index(shard)
    verify_tar(shard, members)
    content = bytearray(shard.read_bytes())
    for position, message in (
        (members[1].offset + 7, "'n01/b.JPEG' has another checksum"),
        (members[1].offset - 512 + 4, "1 members instead of 2"),  # in its header
        (2, "no whole tar file"),
    ):
        content[position] ^= 1
        shard.write_bytes(content)
        with pytest.raises(PackError, match=message):
            verify_tar(shard, members)
        content[position] ^= 1
    shard.write_bytes(content)
    with pytest.raises(PackError, match="2 members instead of 3"):
        verify_tar(shard, [*members, members[0]])
    with pytest.raises(PackError, match="was found, not None"):
        verify_tar(shard, members[:1])


@pytest.mark.parametrize("step", [1, 2, 10**18])
def test_a_claim_of_any_number_is_bounded(step: int, pack: Path) -> None:
    edit(
        pack / "pack.json",
        lambda content: content.update(images=10**18, images_per_shard=step),
    )
    faults: list[str] = []
    with pytest.raises(PackError) as raised:
        verify_pack(pack, on_fault=faults.append)
    if step == 10**18:
        assert "do not hold the 1000000000000000000 images" in str(raised.value)
        error: type[Exception] = PackError
    else:
        missing = 10**18 // step - 3
        assert faults == [
            f"{missing} tar files are missing; the first one is "
            f"{pack / 'images-00003.tar'}"
        ]
        error = FileNotFoundError
    with pytest.raises(error):
        PackedImages(str(pack))


def test_missing_tar_files_do_not_hide_bad_ones(pack: Path) -> None:
    os.remove(pack / "images-00001.tar")
    (pack / "images-00002.tar").write_bytes(b"")
    for stranger in ("images-1.tar", "images-x.tar", "images-00007.tar"):
        (pack / stranger).touch()
    faults: list[str] = []
    with pytest.raises(PackError, match="2 of 3 tar files are bad"):
        verify_pack(pack, on_fault=faults.append)
    assert faults[0].startswith("1 tar files are missing; the first one is")
    assert faults[0].endswith("images-00001.tar")
    assert "images-00002.tar has 0 bytes" in faults[1]


@pytest.mark.parametrize("name", ["pack.json", "images-00000.json", "images-00000.tar"])
@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
def test_files_of_a_pack_are_regular(name: str, target: str, pack: Path) -> None:
    path = pack / name
    if name.endswith(".tar"):  # its index knows its size
        member = read_index(path)[0]
    os.remove(path)
    os.mkfifo(path) if target == "fifo" else path.symlink_to(target)
    with pytest.raises((OSError, PackError)):
        PackedImages(str(pack))
    with pytest.raises((OSError, PackError)):
        verify_pack(pack)
    if name.endswith(".tar"):
        with pytest.raises(OSError, match="not a regular file"):
            fileio.get(tar_path(path, member.offset, member.size, member.name))


def test_members_are_bounded(pack: Path) -> None:
    with (pack / "images-00000.tar").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="more than"):
        fileio.get(tar_path(pack / "images-00000.tar", 512, MAX_BYTES + 1, "a.jpg"))
    index = pack / "images-00000.json"
    edit(index, lambda content: content.update(bytes=2**40))
    edit(index, lambda content: content["members"][0].__setitem__(2, 2**39))
    with pytest.raises(PackError, match="more than"):
        read_index(pack / "images-00000.tar")


# --- reading ------------------------------------------------------------------------


def test_a_process_opens_a_tar_file_once_and_not_too_many(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counted(path: str, *args: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return open_regular(path, *args, **options)

    monkeypatch.setattr(packed_images, "open_regular", counted)
    backend = TarBackend()
    paths = [
        tar_path(shard, m.offset, m.size, m.name)
        for shard in sorted(pack.glob("*.tar"))
        for m in read_index(shard)
    ]
    contents = [backend.get(path) for path in paths * 3]
    assert contents == contents[: len(paths)] * 3
    assert sorted(opened) == [
        "images-00000.tar",
        "images-00001.tar",
        "images-00002.tar",
    ]
    monkeypatch.setattr(packed_images, "MAX_OPEN", 2)
    backend = TarBackend()
    assert [backend.get(path) for path in paths * 2] == contents[: 2 * len(paths)]
    assert backend._open.cache_info().currsize == 2


def test_bad_paths(pack: Path) -> None:
    shard = pack / "images-00000.tar"
    with pytest.raises(ValueError, match=r"must be tar://FILE.tar#OFFSET\+SIZE/NAME"):
        fileio.get(f"tar://{shard}/n01/a.jpg")
    with pytest.raises(OSError, match="ends after 240 of 512 bytes"):
        fileio.get(tar_path(shard, 10_000, 512, "a.jpg"))
    with pytest.raises(FileNotFoundError):
        fileio.get(tar_path(pack / "images-00009.tar", 0, 512, "a.jpg"))
    member = Member(*read_index(shard)[0])
    text = fileio.get_text(tar_path(shard, 0, 9, "header"))
    assert text == member.name

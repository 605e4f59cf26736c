"""pack_images.py: nothing is lost, stopping costs nothing, reducing says its price."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_tool import run_tool

from saim_mm.datasets import PackedImages, UnlabeledImages, packing
from saim_mm.datasets.load_image import BrokenImageError

TOOL = Path(__file__).parents[2] / "tools" / "dataset_converters" / "pack_images.py"
LOAD = [dict(type="LoadImage")]


def photo(side: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((side + 20, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **(dict(quality=98) if kind == "JPEG" else {}))
    return buffer.getvalue()


CONTENTS = {
    "a/0.jpg": encoded(photo(60, 0)),
    "a/1.png": encoded(photo(60, 1), "PNG"),
    "a/2.jpg": b"",
    "b/3.jpg": encoded(photo(60, 3))[:-200],
    "b/4.jpg": encoded(photo(30, 4)),
    "b/5.jpg": encoded(photo(64, 5).convert("L")),
    "b/6.jpg": b"<html>",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "source" / "b" / "7.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "source" / "notes.txt").write_text("no image")
    return tmp_path / "source"


def run(*arguments: Any) -> int:
    return run_tool("dataset_converters.pack_images", *arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def members(folder: Path) -> dict[str, bytes]:
    dataset = PackedImages(str(folder))
    found = {}
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)["img_path"]
        tar, _, rest = path.removeprefix("tar://").partition("#")
        span, _, name = rest.partition("/")
        offset, size = map(int, span.split("+"))
        found[name] = Path(tar).read_bytes()[offset : offset + size]
    return found


def test_bytes_are_kept_and_verified(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = tmp_path / "pack"
    assert run(source, pack, "--images-per-shard", 3) == 0
    shown = capsys.readouterr().out
    assert "[3/3] images-00002.tar: 2 images" in shown
    assert "unreadable: 'a/2.jpg'\nempty or unreadable: 'b/7.jpg'\n" in shown
    assert members(pack) == {**CONTENTS, "b/7.jpg": b""}
    # The dangling link is there too: index i is image i of the folder.
    folder, packed = UnlabeledImages(str(source)), PackedImages(str(pack))
    assert len(folder) == len(packed) == 8
    for index in range(8):
        ours, theirs = (d.get_data_info(index)["img_path"] for d in (packed, folder))
        assert ours.endswith("/" + Path(theirs).relative_to(source).as_posix())
    assert run("--verify", pack) == 0
    shard = pack / "images-00001.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    assert run("--verify", pack) == 1
    assert "'b/3.jpg' has another checksum" in capsys.readouterr().err


class Stopped(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("reads", [1, 4, 6, 8])
def test_a_stopped_run_goes_on_and_ends_alike(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    tmp_path: Path,
    reads: int,
) -> None:
    """Stopped while the n-th image is read, or (8) between a tar file and its index."""
    whole, pack = tmp_path / "whole", tmp_path / "pack"
    options = ["--images-per-shard", 3]
    assert run(source, whole, *options) == 0
    seen: list[str] = []
    read_bytes = packing._read_bytes

    def stops(src: Path, name: str) -> bytes:
        seen.append(name)
        if len(seen) == reads:
            raise Stopped
        return read_bytes(src, name)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_read_bytes", stops)
        if reads == 8:
            patch.setattr(packing, "write_index", lambda *_: stops(source, "a"))
            seen.extend("1234")
        assert run(source, pack, *options) == 130
    assert not list(pack.glob(".*"))  # no half files
    with pytest.raises(ValueError, match="is not complete"):
        PackedImages(str(pack))
    done = {path.name for path in pack.glob("*.json")} - {"pack.json"}
    read_again: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            packing,
            "_read_bytes",
            lambda src, name: read_again.append(name) or read_bytes(src, name),
        )
        assert run(source, pack, *options) == 0
    assert len(read_again) == 8 - 3 * len(done)
    assert files(pack) == files(whole)


def test_another_plan_is_refused(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = tmp_path / "pack"
    assert run(source, pack) == 0
    before = files(pack)
    for options in (
        ["--images-per-shard", 3],
        ["--short-side", 50],
        ["--uncompressed"],
    ):
        assert run(source, pack, *options) == 1
        assert "made with other options" in capsys.readouterr().err
    (source / "a" / "new.jpg").write_bytes(CONTENTS["a/0.jpg"])
    assert run(source, pack) == 1
    assert run(source, source) == 1
    assert "neither empty nor a pack" in capsys.readouterr().err
    assert files(pack) == before


def test_list_may_not_lead_out_of_the_folder(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = tmp_path / "list.txt"
    for text, message in (
        ("a/0.jpg\n../source/a/0.jpg\n", "'../source/a/0.jpg' is refused"),
        (f"{source}/a/0.jpg\n", "is refused"),
        ("a/0.jpg\na/0.jpg\n", "lists an image more than once"),
    ):
        names.write_text(text)
        assert run(source, tmp_path / "pack", "--list", names) == 1
        assert message in capsys.readouterr().err
    names.write_text("b/4.jpg\na/0.jpg\n")
    assert run(source, tmp_path / "pack", "--list", names) == 0
    assert list(members(tmp_path / "pack")) == ["b/4.jpg", "a/0.jpg"]


def test_reduced_images(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = tmp_path / "pack"
    assert run(source, pack, "--short-side", 40) == 0
    found = members(pack)
    # What is small or broken keeps its bytes, and so stays as broken as it was.
    kept = ["a/2.jpg", "b/3.jpg", "b/4.jpg", "b/6.jpg"]
    assert [name for name, old in CONTENTS.items() if found[name] == old] == kept
    dataset = PackedImages(str(pack), pipeline=LOAD, test_mode=True)
    shapes = {}
    for index, name in enumerate(found):
        try:
            shapes[name] = dataset[index]["img_shape"]
        except BrokenImageError:
            continue
    assert shapes == {
        "a/0.jpg": (40, 53), "a/1.png": (40, 53),
        "b/4.jpg": (30, 50), "b/5.jpg": (40, 52),
    }  # fmt: skip
    manifest = json.loads((pack / "pack.json").read_text())
    assert (manifest["short_side"], manifest["quality"]) == (40, 95)
    cost = manifest["psnr"]
    assert 35 < cost["least"] <= cost["mean"] < 60
    assert f"PSNR {cost['mean']} dB, at least {cost['least']} dB, over 3 images" in (
        capsys.readouterr().out
    )
    # The figure is no formality: a worse quality costs more.
    worse = tmp_path / "worse"
    options = ["--short-side", 40, "--quality", 30]
    assert run(source, worse, *options) == 0
    assert json.loads((worse / "pack.json").read_text())["psnr"]["mean"] < cost["mean"]


def test_uncompressed_images(
    source: Path,
    tmp_path: Path,
) -> None:
    pack, small = tmp_path / "pack", tmp_path / "small"
    assert run(source, pack, "--uncompressed") == 0
    options = ["--uncompressed", "--short-side", 40]
    assert run(source, small, *options) == 0
    folder = UnlabeledImages(str(source), pipeline=LOAD, test_mode=True)
    packed = PackedImages(str(pack), pipeline=LOAD, test_mode=True)
    reduced = PackedImages(str(small), pipeline=LOAD, test_mode=True)
    loaded = 0
    for index, (name, content) in enumerate(members(pack).items()):
        try:
            wanted = folder[index]["img"]
        except BrokenImageError:
            assert content == CONTENTS.get(name, b"")
            continue
        assert content.startswith(b"BM")
        np.testing.assert_array_equal(packed[index]["img"], wanted)
        assert min(reduced[index]["img_shape"]) == min(40, *wanted.shape[:2])
        loaded += 1
    assert loaded == 4
    assert json.loads((pack / "pack.json").read_text())["psnr"]["least"] == 99
    assert 30 < json.loads((small / "pack.json").read_text())["psnr"]["least"] < 99


@pytest.mark.parametrize(
    "arguments",
    [
        ["pack"],
        ["source", "pack", "--verify"],
        ["source", "pack", "--quality", "90"],
        ["source", "pack", "--short-side", "40", "--uncompressed", "--quality", "90"],
        ["source", "pack", "--short-side", "40", "--quality", "101"],
        ["source", "pack", "--workers", "0"],
    ],
)
def test_bad_arguments(arguments: list[str]) -> None:
    assert run(*arguments) == 2


@pytest.mark.slow
def test_processes_write_the_same(source: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(source, one, "--images-per-shard", 3) == 0
    command = [sys.executable, TOOL, source, two, "--images-per-shard", 3]
    subprocess.run([*map(str, command), "--workers", "2"], check=True)
    assert files(one) == files(two)


def test_only_regular_files_are_packed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(source / "a" / "fifo.jpg")
    (source / "a" / "zero.jpg").symlink_to("/dev/zero")
    (source / "a" / os.fsdecode(b"\xff.jpg")).touch()  # named all the same
    for options in ([], ["--short-side", 32], ["--uncompressed"]):
        pack = tmp_path / "-".join(["pack", *map(str, options)])
        # A device lies outside of the folder, too.
        assert run(source, pack, "--follow-links", *options) == 0
        shown = capsys.readouterr().out
        for name in ("a/fifo.jpg", "a/zero.jpg", "a/\udcff.jpg"):
            assert f"empty or unreadable: {name!r}\n" in shown
        assert members(pack)["a/zero.jpg"] == b""


@pytest.mark.parametrize("kind", ["file", "chain", "folder", "parent"])
def test_links_out_of_the_folder_are_refused(
    kind: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "source-2" / "key.jpg"  # whose name begins as the folder's
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    link = source / "a" / "link.jpg"
    if kind == "file":
        link.symlink_to(secret)
    elif kind == "chain":
        (source / "a" / "step").symlink_to("../../source-2")
        link.symlink_to("step/key.jpg")
    elif kind == "folder":
        (source / "c").symlink_to(secret.parent)
    else:
        link.symlink_to("../../source-2/key.jpg")
    assert run(source, tmp_path / "pack") == 1
    error = capsys.readouterr().err
    assert "links to outside of" in error and "add --follow-links" in error
    assert not (tmp_path / "pack").exists()
    assert run(source, tmp_path / "pack", "--follow-links") == 0
    assert b"secret" in members(tmp_path / "pack").values()


def test_links_within_the_folder_are_packed(source: Path, tmp_path: Path) -> None:
    (source / "a" / "link.jpg").symlink_to(source / "a" / "0.jpg")
    (tmp_path / "other name").symlink_to(source)
    assert run(tmp_path / "other name", tmp_path / "pack") == 0
    assert members(tmp_path / "pack")["a/link.jpg"] == CONTENTS["a/0.jpg"]

"""Broken files: replaced, explained and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_files import LOAD, encoded, folder_with_broken, one_line, photo, width, write
from torch.utils.data import DataLoader

from saim_mm.datasets import (
    BrokenImageError,
    TooManyBrokenImages,
    UnlabeledImages,
    load_image,
)

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


def _denying(read: Callable[..., bytes]) -> Callable[..., bytes]:
    def guarded(path: str, *args: Any, **options: Any) -> bytes:
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return read(path, *args, **options)

    return guarded


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
        reads = ((load_image, "read_regular"), (load_image.fileio, "get"))
        for owner, name in reads:
            monkeypatch.setattr(owner, name, _denying(getattr(owner, name)))
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


def test_the_loader_may_come_after_seed_sample(tmp_path: Path) -> None:
    """As in other pipelines; a broken image is replaced and named all the same."""
    folder_with_broken(tmp_path, 3, {1})
    dataset = UnlabeledImages(str(tmp_path), pipeline=[dict(type="SeedSample"), *LOAD])
    plain = UnlabeledImages(str(tmp_path), pipeline=LOAD)
    dataset.max_broken_share = plain.max_broken_share = 0.5
    for index in range(3):
        assert width(dataset[index]) == width(plain[index])
    assert dataset.broken_indices() == plain.broken_indices() == [1]


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

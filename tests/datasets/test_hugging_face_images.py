"""Datasets on disk give the bytes that were saved; nothing is fetched or run."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import mmengine.fileio as fileio
import numpy as np
import pytest
from image_files import LOAD, encoded, folder_with_broken, photo, width
from sources import as_rows, check_same_samples

from saim_mm.datasets import (
    HuggingFaceImages,
    TooManyBrokenImages,
    UnlabeledImages,
    hugging_face_images,
)
from saim_mm.datasets.hugging_face_images import open_rows, row_path

# By version: without the library, our tests' own folder goes by this name.
datasets = pytest.importorskip("datasets", minversion="3")
pyarrow = pytest.importorskip("pyarrow")
datasets.disable_progress_bars()

CROP = dict(type="LoadRandomResizedCrop", scale=16, flip_prob=0.5)
PNGS = [encoded("PNG", photo(2, columns)) for columns in range(1, 6)]


def saved(folder: Path, kind: Any = None, **columns: list[Any]) -> str:
    """A dataset of some columns; ``image`` is one of images, or of another kind."""
    rows = datasets.Dataset.from_dict(columns)
    for name in columns:
        if name.startswith("image"):
            rows = rows.cast_column(name, kind or datasets.Image())
    rows.save_to_disk(str(folder))
    return str(folder)


def widths(dataset: UnlabeledImages) -> list[int]:
    return [width(dataset[i]) for i in range(len(dataset))]


# --- what is served -----------------------------------------------------------------


@pytest.mark.parametrize("loader", [dict(type="LoadImageFromFile"), *LOAD, CROP])
@pytest.mark.parametrize("workers", [0, 2])
def test_same_samples_as_the_folder(
    loader: dict[str, Any], workers: int, tmp_path: Path
) -> None:
    folder = folder_with_broken(tmp_path / "images", 7, {2})
    data = as_rows(folder, tmp_path / "rows")
    check_same_samples(folder, data, HuggingFaceImages, loader, workers)


def test_bytes_are_those_that_were_saved(tmp_path: Path) -> None:
    """Of selected and shuffled rows, with formats that would decode or convert."""
    rows = datasets.Dataset.from_dict(dict(image=PNGS, label=list("abcde")))
    rows = rows.cast_column("image", datasets.Image()).select([4, 0, 2])
    rows.with_format("numpy").save_to_disk(str(tmp_path / "rows"), num_shards=2)
    dataset = HuggingFaceImages(str(tmp_path / "rows"))
    found = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    assert [fileio.get(path) for path in found] == [PNGS[4], PNGS[0], PNGS[2]]
    assert found[1] == f"arrow://{tmp_path}/rows#1/image"
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.get_data_info(2) == dataset.get_data_info(2)


def test_splits_and_columns(tmp_path: Path) -> None:
    rows = dict(
        train=datasets.Dataset.from_dict(dict(image=PNGS, raw=PNGS[::-1])),
        test=datasets.Dataset.from_dict(dict(image=PNGS[:1], raw=PNGS[:1])),
    )
    splits = datasets.DatasetDict(rows).cast_column("image", datasets.Image())
    splits.save_to_disk(str(tmp_path))
    options = dict(data_root=str(tmp_path), pipeline=LOAD)
    assert widths(HuggingFaceImages(**options, data_prefix="train")) == [1, 2, 3, 4, 5]
    assert widths(HuggingFaceImages(**options, data_prefix="test")) == [1]
    dataset = HuggingFaceImages(**options, data_prefix="train", column="raw")
    assert widths(dataset) == [5, 4, 3, 2, 1]
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]; set data_pre"):
        HuggingFaceImages(**options)


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by opening, nor for a row that has a link instead of an image."""
    links = ["http://localhost:9/a.png", "/etc/passwd", "hf://datasets/a/b.png"]
    cells = [dict(bytes=None, path=link) for link in links]
    cells.append(dict(bytes=PNGS[0], path=links[0]))
    table = datasets.Dataset.from_dict(
        dict(image=cells), features=datasets.Features(image=datasets.Image())
    ).data.table
    folder = Path(saved(tmp_path / "rows", image=PNGS[:4]))
    (file,) = folder.glob("*.arrow")
    with pyarrow.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table)

    def refuse(*_: Any) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    dataset = HuggingFaceImages(str(folder), pipeline=LOAD, max_broken_share=0.9)
    assert widths(dataset) == [1, 1, 1, 1]
    assert dataset.broken_indices() == [0, 1, 2]
    for index in range(3):
        assert "only the name of one elsewhere" in dataset.broken_reason(index)


# --- what is broken -----------------------------------------------------------------


def test_broken_rows_are_broken_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face_images, "MAX_BYTES", 10_000)
    content = [PNGS[0], encoded()[:-60], None, b"", b"x" * 10_001, PNGS[4]]
    root = saved(tmp_path / "rows", image=content)
    dataset = HuggingFaceImages(root, pipeline=LOAD, max_broken_share=0.9)
    assert widths(dataset) == [1, 5, 5, 5, 5, 5]
    reasons = [dataset.broken_reason(index) for index in range(1, 5)]
    assert reasons[0].startswith("truncated JPEG")
    assert "the row has no image" in reasons[1]
    assert reasons[2] == "empty file"
    assert reasons[3] == "10001 bytes, more than 10000"
    assert "rows#2/image'" in dataset.describe_broken(2)
    with pytest.raises(TooManyBrokenImages, match="raise max_broken_share"):
        widths(HuggingFaceImages(root, pipeline=LOAD))


@pytest.mark.parametrize(
    ("value", "column"), [(list(range(3)), "label"), (["a", "b", "c"], "text")]
)
def test_a_column_of_no_images(value: list, column: str, tmp_path: Path) -> None:
    root = saved(tmp_path / "rows", image=PNGS[:3], **{column: value})
    with pytest.raises(TooManyBrokenImages):
        widths(HuggingFaceImages(root, pipeline=LOAD, column=column))


# --- what is refused ----------------------------------------------------------------


def spoil(folder: Path, how: str) -> None:
    first = sorted(folder.glob("*.arrow"))[0]
    if how == "missing":
        first.unlink()
    elif how == "fifo":
        first.unlink()
        os.mkfifo(first)
    elif how == "truncated":
        first.write_bytes(first.read_bytes()[:-300])
    elif how == "no json":
        (folder / "state.json").write_text("{")
    elif how == "no list":
        (folder / "state.json").write_text("[]")
    elif how == "offsets":
        # Those of the second column, 4 bytes each, lead far out of the file.
        content = first.read_bytes()
        sizes = np.cumsum([0, *map(len, PNGS)], dtype=np.int32)
        place = content.index(sizes.tobytes())
        wrong = (sizes + 2**30).tobytes()
        first.write_bytes(content[:place] + wrong + content[place + len(wrong) :])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "No such file"),
        ("fifo", "not a regular file"),
        ("truncated", "is no whole dataset"),
        ("no json", "is no whole dataset.*JSONDecodeError"),
        ("no list", "is no whole dataset"),
        ("offsets", "is no whole dataset.*ArrowInvalid"),
    ],
)
def test_damaged_datasets(how: str, message: str, tmp_path: Path) -> None:
    """They end in an error before the run begins; none ends or stops the process."""
    root = saved(tmp_path / "rows", image=PNGS)
    spoil(Path(root), how)
    with pytest.raises((ValueError, OSError), match=message):
        HuggingFaceImages(root)


def test_the_damaged_file_is_named(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict(dict(image=PNGS))
    rows.save_to_disk(str(tmp_path), num_shards=3)
    first, second, third = sorted(tmp_path.glob("*.arrow"))
    second.write_bytes(second.read_bytes()[:-300])
    with pytest.raises(ValueError, match="is no whole dataset") as raised:
        HuggingFaceImages(str(tmp_path))
    assert second.name in str(raised.value)
    assert first.name not in str(raised.value) and third.name not in str(raised.value)


def test_folders_of_no_use(tmp_path: Path) -> None:
    root = saved(tmp_path / "two", image=PNGS, image_2=PNGS)
    with pytest.raises(ValueError, match=r"2 columns of type Image; .*'image_2'"):
        HuggingFaceImages(root)
    with pytest.raises(ValueError, match=r"column='img': .*/two' has image, image_2"):
        HuggingFaceImages(root, column="img")
    with pytest.raises(ValueError, match="list.txt' lists files, and .* has rows"):
        HuggingFaceImages(root, ann_file="list.txt")
    with pytest.raises(TypeError, match="colunm"):
        HuggingFaceImages(root, colunm="image")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        HuggingFaceImages(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no state.json; have .*save_to_disk"):
        HuggingFaceImages(str(tmp_path / "empty"))


def test_parquet_says_what_it_costs(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict(dict(image=PNGS))
    rows.to_parquet(str(tmp_path / "data" / "train-0.parquet"))
    message = "of which a row is read only with hundreds beside it; .* written once"
    with pytest.raises(ValueError, match=message):
        HuggingFaceImages(str(tmp_path))


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = saved(tmp_path / "rows", image=PNGS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"'pip install \"saim_mm\[huggingface\]\"'"):
        HuggingFaceImages(root)


def test_bad_paths(tmp_path: Path) -> None:
    root = saved(tmp_path / "rows", image=PNGS, label=list("abcde"))
    with pytest.raises(ValueError, match=r"must be arrow://FOLDER#ROW/COLUMN"):
        fileio.get(f"arrow://{root}/3")
    with pytest.raises(IndexError):
        fileio.get(row_path(root, 5, "image"))
    assert fileio.get_text(row_path(root, 2, "label")) == "c"
    assert json.loads((Path(root) / "state.json").read_text())["_data_files"]
    assert open_rows(root) is open_rows(root)

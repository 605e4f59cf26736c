"""A folder is read by what lies in it, and what is no other is a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import write
from sources import write_shard

from saim_mm.datasets.data_kinds import kind_of_data


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ("a.jpg b.tar c.parquet", "UnlabeledImages"),
        ("class/a.jpg b.tar", "UnlabeledImages"),
        ("notes.txt", "UnlabeledImages"),
        ("pack.json images-00000.tar", "PackedImages"),
        ("00.tar 01.TAR sizes.json .cache/x", "WebDatasetImages"),
        ("00.tar.gz", "WebDatasetImages"),
        ("a.npy b.NPY old.tar", "UnlabeledImages"),
        ("a.npy b.npy", "UnlabeledImages"),
        ("00.tar 01.tar mean.npy .a.npy .b.npy", "WebDatasetImages"),
        ("0.parquet 1.parquet mean.npy old.tar", "HuggingFaceImages"),
        ("state.json data-0.arrow", "HuggingFaceImages"),
        ("dataset_dict.json train/state.json", "HuggingFaceImages"),
        ("train-0.parquet README.md", "HuggingFaceImages"),
    ],
)
def test_kinds(files: str, kind: str, tmp_path: Path) -> None:
    for name in files.split():
        write(tmp_path / name, b"")
    assert kind_of_data(tmp_path).__name__ == kind


def test_no_folder(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", {})
    for path in (shard, tmp_path / "none"):
        assert kind_of_data(path).__name__ == "UnlabeledImages"

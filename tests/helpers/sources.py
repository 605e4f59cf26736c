"""The images of a folder in the other places that they are read from."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from saim_mm.datasets import UnlabeledImages
from saim_mm.utils.sample_index import SampleIndex


def write_shard(path: Path, files: Mapping[str, bytes], mode: str = "w:") -> Path:
    """Writes a tar file of some members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def as_shards(images: Path, folder: Path, per_shard: int = 10) -> Path:
    """Shards of a flat folder's images in its order, each with a label and a pickle."""
    paths = sorted(images.iterdir())
    for first in range(0, len(paths), per_shard):
        files = {}
        for path in paths[first : first + per_shard]:
            files |= {f"{path.stem}.cls": b"3", path.name: path.read_bytes()}
            files |= {f"{path.stem}.pyd": b"cposix\nsystem\n(S'false'\ntR."}
        write_shard(folder / f"{first:05d}.tar", files)
    return folder


def as_rows(images: Path, folder: Path, files: int = 3) -> Path:
    """A Hugging Face dataset of a flat folder's images in its order."""
    # By version: without the library, our tests' own folder goes by this name.
    datasets = pytest.importorskip("datasets", minversion="3")
    datasets.disable_progress_bars()
    contents = [path.read_bytes() for path in sorted(images.iterdir())]
    columns = dict(image=contents, label=list(range(len(contents))))
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.save_to_disk(str(folder), num_shards=files)
    return folder


def write_as(kind: str, images: Path, folder: Path) -> Path:
    """The folder as data of a kind, which is the name of a dataset."""
    if kind == "UnlabeledImages":
        return images
    return {"WebDatasetImages": as_shards, "HuggingFaceImages": as_rows}[kind](
        images, folder
    )


def check_same_samples(
    images: Path, data: Path, kind: type, loader: dict[str, Any], workers: int
) -> None:
    """Serves seven images of a folder, the third broken, and the same as other data."""
    served = []
    for root, reads in ((images, UnlabeledImages), (data, kind)):
        dataset = reads(str(root), pipeline=[loader], max_broken_share=0.2)
        indices = [SampleIndex(i, seed=3, epoch=1) for i in range(len(dataset))]
        loaded = DataLoader(
            dataset, sampler=indices, batch_size=None, num_workers=workers,
            collate_fn=dict, multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        served.append([(int(s["sample_idx"]), s["img"]) for s in loaded])
        assert dataset.broken_indices() == [2]
    assert len(served[0]) == 7
    for (index, image), (other, same) in zip(*served, strict=True):
        assert index == other
        np.testing.assert_array_equal(image, same)

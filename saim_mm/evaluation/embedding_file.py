"""Features of images as a file: ``.npz``, or ``.parquet`` with pyarrow.

Both hold the same: a row for each image that loads, sorted by name, and as JSON, under
``about``, what the features are of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..utils.atomic_file import check_new, write_atomically
from .embedding import Rows

SUFFIXES = (".npz", ".parquet")


def check_output(path: Path) -> None:
    """Stops before any work what could not be written after it.

    Raises:
        ValueError: If the suffix is of neither format.
        OSError: If there is such a file, or it cannot be written.
        ImportError: If it needs pyarrow, which is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: the suffix {path.suffix!r} names no format; end the name with "
            f"{' or '.join(SUFFIXES)}."
        )
    check_new(path)
    if path.suffix == ".parquet":
        _pyarrow()


def write_embedding(
    path: Path, parts: Iterable[Rows], names: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Writes all rows, whole or not at all.

    Args:
        path: The file.
        parts: The features, in order.
        names: Of all N images, in that order.
        about: What they are of; ``rows`` is the number of rows.

    Raises:
        OSError: If it cannot be written.
        ValueError: If a name is no UTF-8 and has to be, in ``.parquet``.
    """
    write = _write_npz if path.suffix == ".npz" else _write_parquet
    write_atomically(path, lambda file: write(file, parts, names, about))


def _write_npz(
    file: BinaryIO,
    parts: Iterable[Rows],
    names: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    total, width = about["rows"], about["channels"]
    features = np.empty((total, width), np.float32)
    sizes, kept, row = np.empty((total, 2), np.int32), [], 0
    for part in parts:
        after = row + len(part.kept)
        features[row:after], sizes[row:after] = part.features, part.sizes
        kept += part.kept.tolist()
        row = after
    named = np.array([names[number] for number in kept])
    said = np.array(json.dumps(about))
    np.savez(file, features=features, names=named, sizes=sizes, about=said)


def _write_parquet(
    file: BinaryIO,
    parts: Iterable[Rows],
    names: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    pyarrow = _pyarrow()
    vector = pyarrow.list_(pyarrow.float32(), about["channels"])
    kinds = [("name", pyarrow.string()), ("rows", pyarrow.int32())]
    kinds += [("columns", pyarrow.int32()), ("features", vector)]
    schema = pyarrow.schema(kinds, metadata={"about": json.dumps(about)})
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            values = pyarrow.array(part.features.ravel())
            columns = [
                [_utf8(names[number]) for number in part.kept],
                *part.sizes.T,
                pyarrow.FixedSizeListArray.from_arrays(values, about["channels"]),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name!r} is no UTF-8, as .parquet needs; rename it, or write .npz."
        ) from None
    return name


def _pyarrow() -> Any:
    """The optional library, imported only for files that need it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            ".parquet needs a library that is not installed; run 'pip install "
            "pyarrow', or write .npz."
        ) from None
    return pyarrow

"""Reading images of a Hugging Face dataset that lies on disk as if they were files.

The path of an image says which row it is: ``arrow://FOLDER#ROW/COLUMN``. MMEngine, and
with it every transform that loads files, reads such paths like others as soon as this
module is imported. Of a row only the bytes of that cell are read, and nothing decodes
them on the way: no code of the dataset runs, and no link in it is followed.
"""

from __future__ import annotations

import errno
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.fileio import BaseStorageBackend, register_backend

from .image_files import open_regular, read_regular
from .load_image import MAX_BYTES

#: What ``save_to_disk`` writes, of one split and of several.
STATE, SPLITS = "state.json", "dataset_dict.json"
_PATH = re.compile(r"arrow://(.*)#(\d+)/([^#]*)", re.DOTALL)


def row_path(folder: Path | str, row: int, column: str) -> str:
    """Returns the path by which MMEngine reads the image of a row."""
    return f"arrow://{folder}#{row}/{column}"


@lru_cache(maxsize=64)
def open_rows(folder: str) -> Any:
    """Opens what ``save_to_disk`` wrote; its files are mapped into memory.

    Returns:
        The ``datasets.Dataset``, whose rows are pieces of arrow tables.

    Raises:
        ImportError: If the library is not installed.
        OSError: If a file is missing, or no regular one.
        ValueError: If it is none, or damaged.
    """
    try:
        from datasets import Dataset
    except ImportError:
        raise ImportError(
            "datasets of Hugging Face need a library that is not installed; run 'pip "
            'install "saim_mm[huggingface]"\'.'
        ) from None
    try:
        state = json.loads(read_regular(Path(folder, STATE), 2**30))
        for file in state["_data_files"]:
            open_regular(Path(folder, file["filename"])).close()
        rows = Dataset.load_from_disk(folder, keep_in_memory=False)
        # Offsets that lead out of a file would be read, and end the process.
        rows.data.table.validate(full=True)
        return rows.with_format("arrow")
    except Exception as error:  # json and the library raise anything for bad files
        if isinstance(error, OSError) and error.filename:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{folder!r} is no whole dataset as save_to_disk of the library datasets "
            f"writes it ({reason}); write or copy it again"
        ) from error


class ArrowBackend(BaseStorageBackend):
    """Reads cells of datasets on disk, by :func:`row_path`; it cannot write."""

    def get(self, filepath: str | Path) -> bytes:
        """Returns the bytes of an image.

        Raises:
            ValueError: If the path does not say where they are.
            OSError: If there are none, or too many.
        """
        match = _PATH.fullmatch(str(filepath))
        if match is None:
            raise ValueError(f"{str(filepath)!r} must be arrow://FOLDER#ROW/COLUMN")
        cell = open_rows(match[1])[int(match[2])].column(match[3])[0]
        if hasattr(cell, "keys") and cell.is_valid:  # an image: its bytes and its name
            cell = cell["bytes"]
        if not cell.is_valid:
            reason = "the row has no image, or only the name of one elsewhere"
            raise OSError(errno.ENODATA, reason, str(filepath))
        content = cell.as_buffer()
        if len(content) > MAX_BYTES:
            reason = f"{len(content)} bytes, more than {MAX_BYTES}"
            raise OSError(errno.EFBIG, reason, str(filepath))
        return content.to_pybytes()

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """Returns a cell as text."""
        return self.get(filepath).decode(encoding)


register_backend("arrow", ArrowBackend, force=True, prefixes="arrow")

"""Images without labels from a Hugging Face dataset that lies on disk.

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

from mmengine.fileio import register_backend

from ..registry import register
from .image_files import (
    ReadingBackend,
    check_size,
    one_line,
    open_regular,
    read_regular,
)
from .load_image import MAX_BYTES
from .unlabeled_images import UnlabeledImages

#: What ``save_to_disk`` writes, of one split and of several.
STATE, SPLITS = "state.json", "dataset_dict.json"
_PATH = re.compile(r"arrow://(.*)#(\d+)/([^#]*)", re.DOTALL)


def row_path(folder: Path | str, row: int, column: str) -> str:
    """Returns the path by which MMEngine reads the image of a row."""
    return f"arrow://{folder}#{row}/{column}"


@lru_cache(maxsize=64)
def open_rows(folder: str) -> Any:
    """Opens the ``datasets.Dataset`` that ``save_to_disk`` wrote.

    Its files are mapped into memory, and its rows are pieces of arrow tables.

    Raises:
        ImportError: If the library is not installed.
        OSError: If a file is missing, or no regular one.
        ValueError: If it is none, or a file of it is damaged.
    """
    try:
        import pyarrow
        from datasets import Dataset
    except ImportError:
        raise ImportError(
            "datasets of Hugging Face need a library that is not installed; run 'pip "
            'install "saim_mm[huggingface]"\'.'
        ) from None
    name = STATE
    try:
        state = json.loads(read_regular(Path(folder, name), 2**30))
        for name in [file["filename"] for file in state["_data_files"]]:
            path = Path(folder, name)
            open_regular(path).close()
            with pyarrow.memory_map(str(path)) as file:
                # Offsets that lead out of a file would be read, and end the process.
                pyarrow.ipc.open_stream(file).read_all().validate(full=True)
        name = "all files"
        rows = Dataset.load_from_disk(folder, keep_in_memory=False)
        return rows.with_format("arrow")
    except Exception as error:  # json and the libraries raise anything for bad files
        if isinstance(error, OSError) and error.filename:
            raise
        reason = one_line(f"{name}: {type(error).__name__}: {error}")
        raise ValueError(
            f"{folder!r} is no whole dataset as save_to_disk of the library datasets "
            f"writes it ({reason}); write or copy it again"
        ) from error


class ArrowBackend(ReadingBackend):
    """Reads cells of datasets on disk, by :func:`row_path`."""

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
        check_size(len(content), MAX_BYTES, filepath)
        return content.to_pybytes()


register_backend("arrow", ArrowBackend, force=True, prefixes="arrow")


@register("dataset")
class HuggingFaceImages(UnlabeledImages):
    """The images of a dataset that ``save_to_disk`` of the library ``datasets`` wrote.

    They come in the order of the rows, with the bytes that lie in the files; a row is
    as near as any other. A row without bytes, as with images that only have a link, is
    a broken image.

    Takes the options of :class:`UnlabeledImages`, but for ``ann_file`` and
    ``extensions``. ``data_root`` and ``data_prefix`` give the folder of one split.

    Args:
        column: Name of the column of the images, of type ``Image`` or binary; by
            default the only one of type ``Image``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ImportError: If the library is missing.
        ValueError: If it holds no such dataset, or no such column.
    """

    def __init__(self, *options: Any, column: str = "", **more: Any) -> None:
        self.column = column
        super().__init__(*options, **more)

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each row."""
        if self.ann_file:
            raise ValueError(
                f"ann_file={self.ann_file!r} lists files, and a dataset of Hugging "
                "Face has rows; leave it out, or write those you want by "
                "dataset.select(rows).save_to_disk(folder)"
            )
        self._check_folder(self.img_prefix)
        folder = Path(self.img_prefix)
        if not (folder / STATE).is_file():
            raise ValueError(f"{str(folder)!r} holds {_other_data(folder)}")
        rows = open_rows(str(folder))
        column = self.column or _only_image_column(folder, rows)
        if column not in rows.column_names:
            raise ValueError(
                f"column={column!r}: {str(folder)!r} has {', '.join(rows.column_names)}"
            )
        return [dict(img_path=row_path(folder, n, column)) for n in range(len(rows))]


def _other_data(folder: Path) -> str:
    """What a folder holds that is no dataset, as far as that can be known."""
    if (folder / SPLITS).is_file():
        splits = json.loads(read_regular(folder / SPLITS, 2**20))["splits"]
        return (
            f"the splits {splits}; set data_prefix to one of them, or give its folder"
        )
    found = f"no {STATE}"
    if any(folder.rglob("*.parquet")):
        found = "parquet files, of which a row is read only with hundreds beside it"
    return (
        f"{found}; have the data written once by datasets.load_dataset(FOLDER, "
        "split='train').save_to_disk(OTHER_FOLDER), which takes as much room again"
    )


def _only_image_column(folder: Path, rows: Any) -> str:
    from datasets import Image

    names = [n for n, kind in rows.features.items() if isinstance(kind, Image)]
    if len(names) != 1:
        kinds = {name: type(kind).__name__ for name, kind in rows.features.items()}
        raise ValueError(
            f"{str(folder)!r} has {len(names)} columns of type Image; name that of the "
            f"images in column, out of {kinds}"
        )
    return names[0]

"""Images without labels from a Hugging Face dataset that lies on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..registry import register
from .arrow_rows import SPLITS, STATE, open_rows, row_path
from .image_files import read_regular
from .unlabeled_images import UnlabeledImages


@register("dataset")
class HuggingFaceImages(UnlabeledImages):
    """The images of a dataset that ``save_to_disk`` of the library ``datasets`` wrote.

    They come in the order of the rows, with the bytes that lie in the files; a row is
    as near as any other. The library opens the files and does no more: nothing is
    fetched, and no code of a dataset runs. A row without bytes, as with images that
    only have a link, is a broken image.

    Takes the options of :class:`UnlabeledImages`, but for ``ann_file`` and
    ``extensions``. ``data_root`` and ``data_prefix`` give the folder of one split.

    Args:
        column: Name of the column of the images, of type ``Image`` or binary; by
            default the only one of type ``Image``.
        **options: As for :class:`UnlabeledImages`.

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
        _check_saved(folder)
        rows = open_rows(str(folder))
        column = self.column or _only_image_column(folder, rows)
        if column not in rows.column_names:
            raise ValueError(
                f"column={column!r}: {str(folder)!r} has {', '.join(rows.column_names)}"
            )
        return [dict(img_path=row_path(folder, n, column)) for n in range(len(rows))]


def _check_saved(folder: Path) -> None:
    """Says what a folder is that holds no dataset, as far as that can be known."""
    if (folder / STATE).is_file():
        return
    if (folder / SPLITS).is_file():
        splits = json.loads(read_regular(folder / SPLITS, 2**20))["splits"]
        raise ValueError(
            f"{str(folder)!r} holds the splits {splits}; set data_prefix to one of "
            "them, or give its folder"
        )
    parquet = any(folder.rglob("*.parquet"))
    what = "parquet files, of which a row is read only with hundreds beside it"
    raise ValueError(
        f"{str(folder)!r} holds {what if parquet else f'no {STATE}'}; have the data "
        "written once by datasets.load_dataset(FOLDER, split='train').save_to_disk("
        "OTHER_FOLDER), which takes as much room again"
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

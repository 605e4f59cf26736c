"""Which dataset reads a folder, by what lies in it."""

from __future__ import annotations

from pathlib import Path

from .arrow_rows import SPLITS, STATE
from .hugging_face_images import HuggingFaceImages
from .image_files import IMAGE_SUFFIXES
from .packed_images import PackedImages
from .tar_shards import MANIFEST
from .unlabeled_images import UnlabeledImages
from .webdataset_images import COMPRESSED, WebDatasetImages


def kind_of_data(folder: str | Path) -> type[UnlabeledImages]:
    """The dataset that reads a folder; of what is no other, that of image files.

    A folder of tar or parquet files is one without images or folders beside them, which
    an archive among images is not.
    """
    root = Path(folder).expanduser()
    if (root / MANIFEST).is_file():
        return PackedImages
    if (root / STATE).is_file() or (root / SPLITS).is_file():
        return HuggingFaceImages
    names = []
    for entry in root.iterdir() if root.is_dir() else ():
        names.append(entry.name.lower())
        is_hidden = entry.name.startswith(".")
        if names[-1].endswith(IMAGE_SUFFIXES) or entry.is_dir() and not is_hidden:
            return UnlabeledImages
    if any(name.endswith((".tar", *COMPRESSED)) for name in names):
        return WebDatasetImages
    if any(name.endswith(".parquet") for name in names):
        return HuggingFaceImages  # which says how to make one of it
    return UnlabeledImages

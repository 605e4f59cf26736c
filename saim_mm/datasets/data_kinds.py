"""Which dataset reads a folder, by what lies in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .hugging_face_images import SPLITS, STATE, HuggingFaceImages
from .image_files import IMAGE_SUFFIXES
from .packed_images import MANIFEST, PackedImages
from .unlabeled_images import UnlabeledImages
from .webdataset_images import SHARDS, WebDatasetImages

#: Suffixes of files of which most must be of one kind; of as many, the first one.
_KINDS: dict[type[UnlabeledImages], tuple[str, ...]] = {
    WebDatasetImages: SHARDS,
    HuggingFaceImages: (".parquet",),  # it says how to make a dataset of them
    UnlabeledImages: (".npy",),
}


def kind_of_data(folder: str | Path) -> type[UnlabeledImages]:
    """The dataset that reads a folder; of what is no other, that of image files.

    Among images or folders, an archive does not count; among ``.npy`` files, which are
    images or notes, archives count if they are not fewer. Hidden files never count.
    """
    root = Path(folder).expanduser()
    if (root / MANIFEST).is_file():
        return PackedImages
    if (root / STATE).is_file() or (root / SPLITS).is_file():
        return HuggingFaceImages
    found: Counter[type[UnlabeledImages]] = Counter()
    for entry in root.iterdir() if root.is_dir() else ():
        name = entry.name.lower()
        if name.startswith("."):
            continue
        if name.endswith(IMAGE_SUFFIXES) or entry.is_dir():
            return UnlabeledImages
        for kind, suffixes in _KINDS.items():
            found[kind] += name.endswith(suffixes)
    kind = max(_KINDS, key=found.__getitem__)
    return kind if found[kind] else UnlabeledImages

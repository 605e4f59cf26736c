"""What lies in shards of WebDataset, by the headers of their tar files alone.

No member is read but as an image, so nothing of a shard is ever unpickled or run. The
library itself only streams: it could begin in the middle, or shuffle well, at the cost
of reading all that comes before.
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .image_files import open_regular
from .tar_backend import tar_path
from .tar_shards import open_tar

#: The library's own rules: what files of one sample share, and what are no samples.
_KEY = re.compile(r"((?:.*/|)[^.]+)([.][^/]*)")
_META = re.compile(r"__[^/]*__($|/)")


class _File(NamedTuple):
    """A file of a sample; all from the first dot of the name on is its suffix."""

    key: str
    suffix: str
    path: str


def shard_samples(
    shard: str | Path, suffixes: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Finds the samples of a shard, in its order.

    Args:
        shard: An uncompressed tar file, whose name ends in ``.tar``.
        suffixes: Of images, in lower case. Of a sample with several, the image with the
            first of these counts.

    Yields:
        For each sample ``dict(img_path=...)``, as of :func:`tar_path`. A sample without
        an image, and the rest of a shard that cannot be read, also has ``fault``, which
        says what is wrong.
    """
    try:
        with open_regular(shard) as file, open_tar(file, "r:") as tar:
            for key, files in itertools.groupby(_files(shard, tar), lambda f: f.key):
                yield _sample(shard, key, list(files), suffixes)
    except Exception as error:  # tarfile may raise anything for a bad header
        reason = " ".join(str(error).split())[:200]
        fault = f"the shard, or its rest, is no tar file that can be read: {reason}"
        yield dict(img_path=tar_path(shard, 0, 0, ""), fault=fault)


def _files(shard: str | Path, tar: Any) -> Iterator[_File]:
    position = -1
    while (info := tar.next()) is not None:
        tar.members.clear()  # tarfile keeps all that it has seen
        if info.offset_data <= position or info.size < 0:
            raise tarfile.ReadError("a header leads back to what came before")
        position = info.offset_data
        match = None if _META.match(info.name) else _KEY.fullmatch(info.name)
        if match and info.isreg() and not info.issparse():
            path = tar_path(shard, position, info.size, info.name)
            yield _File(match[1], match[2].lower(), path)
    # tarfile takes a damaged header for the end, which is a block of zeros.
    tar.fileobj.seek(tar.offset)
    if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")


def _sample(
    shard: str | Path, key: str, files: list[_File], suffixes: Sequence[str]
) -> dict[str, str]:
    for suffix in suffixes:
        for file in files:
            if file.suffix == suffix:
                return dict(img_path=file.path)
    found = ", ".join(file.suffix for file in files)[:200]
    fault = f"no image among the files of the sample: {found}"
    return dict(img_path=tar_path(shard, 0, 0, key), fault=fault)

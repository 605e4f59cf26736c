"""Images without labels from the shards of WebDataset.

A shard is known by the headers of its tar file alone. No member is read but as an
image, so nothing of a shard is ever unpickled or run. The library itself only streams:
it could begin in the middle, or shuffle well, at the cost of reading all before it.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..registry import register
from .image_files import one_line, open_regular, warn
from .load_image import BrokenImageError
from .packed_images import open_tar, tar_path
from .unlabeled_images import UnlabeledImages

#: No image of such a shard can be read without unpacking all that comes before it.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Suffixes of shards, of use or not.
SHARDS = (".tar", *_COMPRESSED)
#: The library's own rules: what files of one sample share, and what are no samples.
_KEY = re.compile(r"((?:.*/|)[^.]+)([.][^/]*)")
_META = re.compile(r"__[^/]*__($|/)")


@register("dataset")
class WebDatasetImages(UnlabeledImages):
    """The images of shards in the format of WebDataset, read where they lie.

    A sample is what has one name up to its first dot, as ``0017.jpg``, ``0017.json``;
    one image of it is served, and nothing else is read. All headers are read at the
    start, about 25,000 a second; from then on every image is as near as any other, so
    that a run shuffles over all shards and goes on anywhere.

    A sample without an image, and a shard that cannot be read or breaks off, is a
    broken image: replaced, listed, counted.

    Takes the options of :class:`UnlabeledImages`. ``data_root`` and ``data_prefix``
    give a folder, in which shards are looked for at any depth; ``ann_file``, if given,
    lists the shards to use. An image is a file with one of the ``extensions``, which
    begin at the first dot of its name: ``[".seg.png"]`` takes these.

    Raises:
        FileNotFoundError: If there is no such folder or list.
        ValueError: If it holds no uncompressed shard, or these hold no image.
    """

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each sample; see :func:`shard_samples`."""
        samples: list[dict[str, str]] = []
        for name in self._shards():
            shard = os.path.join(self.img_prefix, name)
            samples.extend(shard_samples(shard, self.extensions))
        faulty = [sample for sample in samples if "fault" in sample]
        first = "they hold no sample"
        if faulty:
            first = f"{faulty[0]['img_path']!r}: {faulty[0]['fault']}"
        if len(faulty) == len(samples):
            raise ValueError(
                f"no image in the shards of {self.img_prefix!r}; {first}. Images are "
                f"files with a suffix out of {', '.join(self.extensions)}, from the "
                "first dot on; set extensions"
            )
        if faulty:  # what was lost with the rest of a shard nobody can count
            text = f"{len(faulty)} samples or ends of shards, such as {first}"
            warn(f"no image in {text}")
        return samples

    def _load(self, idx: int) -> dict[str, Any]:
        info = self.get_data_info(idx)
        if "fault" in info:
            raise BrokenImageError(info["img_path"], info["fault"])
        return super()._load(idx)

    def _shards(self) -> list[str]:
        """Names of the shards, sorted or as listed."""
        names, _ = self._find_files(SHARDS)
        compressed = [name for name in names if name.lower().endswith(_COMPRESSED)]
        if compressed:
            raise ValueError(
                f"{compressed[0]!r} in {self.img_prefix!r} is compressed, as are "
                f"{len(compressed)} of {len(names)} shards: to read an image, all "
                "before it would have to be unpacked, so that a run could neither "
                "shuffle nor go on where it was. "
                "Unpack them once (gunzip, bunzip2, unxz, unzstd); the images in them "
                "are compressed already"
            )
        if not names:
            raise ValueError(
                f"no shard (*.tar) in {self.img_prefix!r}; data_root and data_prefix "
                "must give the folder of the shards"
            )
        return names


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
            for key, group in groupby(_files(shard, tar), lambda found: found[0]):
                files = [(suffix, path) for _, suffix, path in group]
                paths = [
                    path for s in suffixes for suffix, path in files if suffix == s
                ]
                if paths:
                    yield dict(img_path=paths[0])
                    continue
                names = ", ".join(suffix for suffix, _ in files)[:200]
                fault = f"no image among the files of the sample: {names}"
                yield dict(img_path=tar_path(shard, 0, 0, key), fault=fault)
    except Exception as error:  # tarfile may raise anything for a bad header
        reason = one_line(error)
        fault = f"the shard, or its rest, is no tar file that can be read: {reason}"
        yield dict(img_path=tar_path(shard, 0, 0, ""), fault=fault)


def _files(shard: str | Path, tar: Any) -> Iterator[tuple[str, str, str]]:
    """Key, suffix and path of the files; the suffix is all from the first dot on."""
    position = -1
    while (info := tar.next()) is not None:
        tar.members.clear()  # tarfile keeps all that it has seen
        if info.offset_data <= position or info.size < 0:
            raise tarfile.ReadError("a header leads back to what came before")
        position = info.offset_data
        match = None if _META.match(info.name) else _KEY.fullmatch(info.name)
        if match and info.isreg() and not info.issparse():
            path = tar_path(shard, position, info.size, info.name)
            yield match[1], match[2].lower(), path
    # tarfile takes a damaged header for the end, which is a block of zeros.
    tar.fileobj.seek(tar.offset)
    if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")

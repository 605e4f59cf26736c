"""Images without labels from packs: tar files, and an index to read them at random.

The path of a member says where its bytes lie: ``tar://FILE.tar#OFFSET+SIZE/NAME``.
MMEngine, and with it every transform that loads files, reads such paths like others as
soon as this module is imported.

A million small files are slow to list, copy and open on network disks. A pack is a
folder of a few large ones:

    pack.json           what the pack holds and how it was made
    images-00000.tar    an uncompressed tar; `tar tf` lists it
    images-00000.json   name, offset, size and SHA-256 of each of its members
    ...
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from mmengine.fileio import register_backend

from ..registry import register
from ..utils.atomic_file import write_json
from .image_files import (
    ReadingBackend,
    check_size,
    open_regular,
    read_image_list,
    read_regular,
)
from .load_image import MAX_BYTES
from .unlabeled_images import UnlabeledImages

FORMAT = 1
MANIFEST = "pack.json"
#: Of an index; one of ImageNet as a whole has 200 MB.
_MAX_JSON = 2**30
#: Tar files that a process keeps open; of all files, 1024 is the usual limit.
MAX_OPEN = 256
_PATH = re.compile(r"tar://(.*?\.tar)#(\d+)\+(\d+)/", re.DOTALL | re.IGNORECASE)


class PackError(ValueError):
    """A pack, or what should become one, cannot be used."""


class Member(NamedTuple):
    """An image in a tar file.

    Attributes:
        name: Path relative to the folder that was packed, class folders included.
        offset: Where its bytes begin.
        size: How many there are.
        sha256: Their checksum, in hexadecimal digits.
    """

    name: str
    offset: int
    size: int
    sha256: str


class Manifest(NamedTuple):
    """What a pack holds and how it was made.

    Attributes:
        images: Number of images.
        images_per_shard: Number of images in every tar file but the last.
        names_sha256: Checksum of all names in their order.
        short_side: Shorter side to which larger images were reduced, if they were.
        quality: JPEG quality of the reduced images, if they are JPEGs.
        uncompressed: Whether all images were decoded, and are bitmaps now.
        complete: Whether all tar files are there.
        psnr: What the changes of the images cost: PSNR in dB, mean and least.
    """

    images: int
    images_per_shard: int
    names_sha256: str
    short_side: int | None = None
    quality: int | None = None
    uncompressed: bool = False
    complete: bool = False
    psnr: dict[str, float] | None = None

    @property
    def shards(self) -> int:
        """Number of tar files."""
        return -(-self.images // self.images_per_shard)

    def write(self, folder: Path) -> None:
        """Writes ``pack.json``, whole or not at all."""
        write_json(folder / MANIFEST, dict(format=FORMAT, **self._asdict()))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads ``pack.json``.

        Raises:
            PackError: If it is none of this version.
        """
        fields = _read_json(folder / MANIFEST, cls._fields)
        manifest = cls(**{field: fields[field] for field in cls._fields})
        counts = manifest.images, manifest.images_per_shard
        if not all(type(count) is int and count > 0 for count in counts):
            raise PackError(
                f"{folder / MANIFEST} gives images={manifest.images!r} and "
                f"images_per_shard={manifest.images_per_shard!r}; both must be "
                "positive integers"
            )
        return manifest


def shard_path(folder: Path, number: int) -> Path:
    """Where a tar file of a pack lies."""
    return folder / f"images-{number:05d}.tar"


def names_checksum(names: Iterable[str]) -> str:
    """Returns the SHA-256 of names in their order."""
    checksum = hashlib.sha256()
    for name in names:
        checksum.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return checksum.hexdigest()


def check_name(name: str) -> None:
    """Raises ``PackError`` for a name that leads out of the folder of its pack."""
    if not isinstance(name, str) or {"", ".", ".."}.intersection(name.split("/")):
        raise PackError(
            f"the member name {name!r} is refused; names must be relative, and without "
            "empty parts, '.' or '..'"
        )


def write_tar(
    file: BinaryIO, names: Iterable[str], read: Callable[[str], bytes]
) -> list[Member]:
    """Writes what ``read`` gives for each name into an open, empty file as a tar file.

    The same images make the same bytes.

    Returns:
        Where each of them lies.
    """
    members = []
    with open_tar(file, "w:") as tar:
        for name in names:
            check_name(name)
            content = read(name)
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
            blocks = -(-info.size // tarfile.BLOCKSIZE)
            offset = tar.offset - blocks * tarfile.BLOCKSIZE
            checksum = hashlib.sha256(content).hexdigest()
            members.append(Member(name, offset, info.size, checksum))
    return members


def verify_tar(path: Path, members: list[Member]) -> None:
    """Reads a whole tar file and compares it with its index.

    Raises:
        PackError: If a member is not where, or what, the index says.
    """
    position = 0
    try:
        with open_regular(path) as file, open_tar(file, "r:") as tar:
            for info in tar:
                wanted = members[position] if position < len(members) else None
                found = Member(info.name, info.offset_data, info.size, "")
                if wanted is None or found != wanted._replace(sha256=""):
                    raise PackError(f"{path}: {found} was found, not {wanted}")
                content = os.pread(file.fileno(), info.size, info.offset_data)
                if hashlib.sha256(content).hexdigest() != wanted.sha256:
                    raise PackError(f"{path}: {info.name!r} has another checksum")
                position += 1
    except tarfile.TarError as error:
        raise PackError(f"{path}: no whole tar file ({error})") from error
    if position != len(members):
        raise PackError(f"{path}: {position} members instead of {len(members)}")


def write_index(shard: Path, members: list[Member]) -> None:
    """Writes the index of a tar file, whole or not at all."""
    content = dict(format=FORMAT, bytes=shard.stat().st_size, members=members)
    write_json(shard.with_suffix(".json"), content)


def read_index(shard: Path) -> list[Member]:
    """Reads the index of a tar file, and compares the two as far as is quickly done.

    Raises:
        FileNotFoundError: If one of them does not exist.
        PackError: If the index is of another version or tar file, or an entry of it
            has a bad name or lies outside the tar file.
    """
    index = shard.with_suffix(".json")
    fields = _read_json(index, ("bytes", "members"))
    length = shard.stat().st_size
    if fields["bytes"] != length:
        raise PackError(
            f"{shard} has {length} bytes and should have {fields['bytes']}; copy it "
            "again, or remove it and repeat the packing"
        )
    try:
        members = [Member(*entry) for entry in fields["members"]]
    except TypeError:
        raise PackError(f"{index}: an entry is no name, offset, size, sha256") from None
    for member in members:
        check_name(member.name)
        offset, size = member.offset, member.size
        whole = type(offset) is int and type(size) is int and offset > 0
        if not (whole and 0 <= size <= min(length - offset, MAX_BYTES)):
            raise PackError(
                f"{index}: {member.name!r} is said to be {size!r} bytes at "
                f"{offset!r}, outside of the {length} bytes of {shard.name} or "
                f"more than {MAX_BYTES}"
            )
    return members


def open_tar(file: BinaryIO, mode: Literal["r:", "w:"]) -> tarfile.TarFile:
    """Opens an uncompressed tar file whose names may be any bytes."""
    # The names of files need not be UTF-8.
    names: Any = dict(encoding="utf-8", errors="surrogateescape")
    return tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT, **names)


def tar_path(tar: Path | str, offset: int, size: int, name: str) -> str:
    """Returns the path by which MMEngine reads ``size`` bytes of a file ``*.tar``.

    The name of the member only tells people what they look at.
    """
    return f"tar://{tar}#{offset}+{size}/{name}"


class TarBackend(ReadingBackend):
    """Reads members of tar files, by :func:`tar_path`.

    A process opens each tar file once. It reads without moving the file's position,
    so that forked data workers may share what their parent had open.
    """

    def __init__(self) -> None:
        # What is dropped from it is closed when nobody reads from it any more.
        self._open = lru_cache(MAX_OPEN)(open_regular)

    def get(self, filepath: str | Path) -> bytes:
        """Returns the bytes of a member.

        Raises:
            ValueError: If the path does not say where they are.
            OSError: If they cannot be read, or the tar file ends before they do.
        """
        match = _PATH.match(str(filepath))
        if match is None:
            raise ValueError(
                f"{str(filepath)!r} must be tar://FILE.tar#OFFSET+SIZE/NAME"
            )
        tar, offset, size = match[1], int(match[2]), int(match[3])
        check_size(size, MAX_BYTES, filepath)
        content = os.pread(self._open(tar).fileno(), size, offset)
        if len(content) != size:
            raise OSError(f"{tar} ends after {len(content)} of {size} bytes")
        return content


register_backend("tar", TarBackend, force=True, prefixes="tar")


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, _MAX_JSON).decode())
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
        raise PackError(f"{path} is no whole JSON file ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PackError(
            f"{path} is not of format {FORMAT}; pack the images again with "
            "tools/dataset_converters/pack_images.py"
        )
    if missing := [key for key in keys if key not in content]:
        raise PackError(f"{path} has no {', '.join(missing)}")
    return content


@register("dataset")
class PackedImages(UnlabeledImages):
    """The images of a pack that ``tools/dataset_converters/pack_images.py`` made.

    They come in the order, under the indices and, unless they were reduced, with the
    bytes that :class:`UnlabeledImages` has of the folder that was packed; so do crops
    and replacements of broken images. The transforms need no option.

    Takes the options of :class:`UnlabeledImages`. ``data_root`` and ``data_prefix``
    give the folder of the pack; ``ann_file``, if given, lists the members to use.

    Raises:
        FileNotFoundError: If there is no pack, or a file of it is missing.
        PackError: If it is not complete, or does not fit its index; a ``ValueError``.
    """

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each image."""
        paths = read_pack(Path(self.img_prefix))
        if not self.ann_file:
            return [dict(img_path=path) for path in paths.values()]
        names = read_image_list(self.ann_file, self.extensions)
        strange = [name for name in names if name not in paths]
        if strange:
            raise PackError(
                f"{self.ann_file!r} lists {strange[0]!r}, and {len(strange) - 1} more, "
                f"which the pack in {self.img_prefix!r} does not hold; list members as "
                "`tar tf` shows them"
            )
        return [dict(img_path=paths[name]) for name in names]


def read_pack(folder: Path) -> dict[str, str]:
    """The path of each image of a pack, by its name and in its order.

    Errors are those of :class:`PackedImages`.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {MANIFEST}; data_root and data_prefix must give "
            "the folder that tools/dataset_converters/pack_images.py wrote"
        )
    manifest = Manifest.read(folder)
    if not manifest.complete:
        raise PackError(
            f"the pack in {str(folder)!r} is not complete; repeat the command that "
            "packs it, which goes on where it stopped"
        )
    paths = {}
    for number in range(manifest.shards):
        shard = shard_path(folder, number)
        for member in read_index(shard):
            path = tar_path(shard, member.offset, member.size, member.name)
            paths[member.name] = path
    names = len(paths), names_checksum(paths)
    if names != (manifest.images, manifest.names_sha256):
        raise PackError(
            f"the tar files in {str(folder)!r} do not hold the {manifest.images} "
            f"images that {MANIFEST} speaks of; files of two packs may be mixed"
        )
    return paths

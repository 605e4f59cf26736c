"""A checksum inside the checkpoint file.

``torch.save`` writes a ZIP archive, and a ZIP archive may end with a comment. Ours is
the SHA-256 of all that precedes it, so every bit of the file is covered. It lies in the
file, and not beside it, because only then do data and checksum change in one step (a
rename), also where a file replaces one of the same name; and because it cannot get lost
when the file is copied. Any version of torch reads the file as if there were none.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointError

_LABEL = b"saim_mm sha256:"
_DIGEST_LENGTH = 64
_COMMENT_LENGTH = struct.pack("<H", len(_LABEL) + _DIGEST_LENGTH)
#: The last record of an archive; then follow the length of its comment, and that.
_END = rb"PK\x05\x06.{16}"
_BARE_END = re.compile(_END + rb"\0\0\Z", re.DOTALL)
_SEALED_END = re.compile(
    _END + re.escape(_COMMENT_LENGTH + _LABEL) + rb"(.{64})\Z", re.DOTALL
)
_LONGEST_END = 22 + len(_LABEL) + _DIGEST_LENGTH
_CHUNK = 1 << 20


def write_with_sha256(file: BinaryIO, archive: bytes) -> str:
    """Writes a ZIP archive without comment, uncopied, and its SHA-256; returns this."""
    assert _BARE_END.search(archive[-22:]), "torch.save wrote no ZIP archive"
    digest = hashlib.sha256()
    for part in (memoryview(archive)[:-2], _COMMENT_LENGTH, _LABEL):
        digest.update(part)
        file.write(part)
    file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def check_sha256(path: Path) -> bool:
    """Whether a file's checksum fits; False if it never had one.

    Raises:
        CheckpointError: If the file is not as it was written.
    """
    with path.open("rb") as file:
        start = file.read(2)
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONGEST_END))
        tail = file.read()
        if not size:
            raise CheckpointError(f"{path}: truncated: the file is empty.")
        sealed = _SEALED_END.match(tail)
        if sealed is None:
            if _BARE_END.search(tail) or start != b"PK":
                return False
            raise CheckpointError(
                f"{path}: truncated, or damaged at its end: {size} bytes that do not "
                "end as a checkpoint does."
            )
        digest, left = hashlib.sha256(), size - _DIGEST_LENGTH
        file.seek(0)
        while left and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    found, written = digest.hexdigest(), sealed[1].decode("ascii", "replace")
    if found != written:
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 is {found[:12]}..., and was "
            f"{written[:12]}... when it was written."
        )
    return True


def check_intact(path: Path) -> bool:
    """Checks a file by its SHA-256, or else by the CRC-32 of each of its records.

    Torch looks at neither. False for another format than ZIP, which has no checksum.

    Raises:
        CheckpointError: If a record is damaged.
    """
    if check_sha256(path):
        return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: CRC-32 of its record {damaged}.")
    return True

"""Reading members of tar files as if they were files, without unpacking anything.

The path of a member says where its bytes lie: ``tar://FILE.tar#OFFSET+SIZE/NAME``.
MMEngine, and with it every transform that loads files, reads such paths like others as
soon as this module is imported. No index is held in memory.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import BaseStorageBackend, register_backend

from .image_files import open_regular
from .load_image import MAX_BYTES

#: Tar files that a process keeps open; of all files, 1024 is the usual limit.
MAX_OPEN = 256
_PATH = re.compile(r"tar://(.*?\.tar)#(\d+)\+(\d+)/", re.DOTALL | re.IGNORECASE)


def tar_path(tar: Path | str, offset: int, size: int, name: str) -> str:
    """Returns the path by which MMEngine reads ``size`` bytes of a file ``*.tar``.

    The name of the member only tells people what they look at.
    """
    return f"tar://{tar}#{offset}+{size}/{name}"


class TarBackend(BaseStorageBackend):
    """Reads members of tar files, by :func:`tar_path`; it cannot write.

    A process opens each tar file once. It reads without moving the file's position,
    so that forked data workers may share what their parent had open.
    """

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}

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
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{size} bytes, more than {MAX_BYTES}", filepath)
        content = os.pread(self._open(tar).fileno(), size, offset)
        if len(content) != size:
            raise OSError(f"{tar} ends after {len(content)} of {size} bytes")
        return content

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """Returns a member as text."""
        return self.get(filepath).decode(encoding)

    def _open(self, path: str) -> BinaryIO:
        file = self._files.get(path)
        if file is None:
            if len(self._files) >= MAX_OPEN:
                # Closed when nobody reads from it any more.
                self._files.pop(next(iter(self._files)))
            file = self._files[path] = open_regular(path)
        return file


register_backend("tar", TarBackend, force=True, prefixes="tar")

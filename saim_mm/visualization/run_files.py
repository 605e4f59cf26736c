"""The files of a run's folder, which may be a stranger's.

What is shown of a run may be mailed. So no link in its folder is followed, which could
put another file of the reader into it, nothing is waited for, and no file can be too
large. (A hard link is the file itself, and whoever made it had access to it.)
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..datasets.image_files import open_regular


def run_files(work_dir: Path, pattern: str) -> list[Path]:
    """Regular files of a work dir that no link leads to, by name, and so by time.

    Args:
        work_dir: May be a link itself.
        pattern: As for ``Path.glob``.
    """
    return sorted(path for path in work_dir.glob(pattern) if _is_own(work_dir, path))


def _is_own(work_dir: Path, path: Path) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    return path.resolve() == work_dir.resolve() / path.relative_to(work_dir)


def read_start(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Reads the beginning of a file, and tells whether it is longer.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes)
        return content, bool(file.read(1))


def read_end(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """As :func:`read_start`, of the end of a file."""
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - max_bytes))
        return file.read(max_bytes), size > max_bytes


def read_beginning(path: Path, max_bytes: int = 2**20) -> str:
    """The beginning of a text, which says so where it was longer.

    Raises:
        OSError: As for :func:`read_start`.
    """
    content, is_longer = read_start(path, max_bytes)
    text = content.decode(errors="replace")
    return f"{text}\n... and more than {max_bytes:,} bytes" if is_longer else text


def readable(text: str, length: int = 60) -> str:
    """A text as one line that any font, page and file can take; the middle is cut."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}\N{HORIZONTAL ELLIPSIS}{text[-length // 2 + 1 :]}"

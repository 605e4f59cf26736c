"""The files of a run's folder, which may be a stranger's.

What is shown of a run may be mailed. So no link in its folder is followed, which could
put another file of the reader into it, nothing is waited for, and no file can be too
large. (A hard link is the file itself, and whoever made it had access to it.)
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..datasets.image_files import open_regular


def run_files(work_dir: Path, pattern: str) -> list[Path]:
    """Regular files of a work dir that no link leads to, by name, and so by time.

    The work dir may be a link itself; the pattern is one of ``Path.glob``.
    """
    top = work_dir.resolve()
    return sorted(
        path
        for path in work_dir.glob(pattern)
        if stat.S_ISREG(path.lstat().st_mode)
        and path.resolve() == top / path.relative_to(work_dir)
    )


def read_start(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Reads the beginning of a file, and tells whether it is longer.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes)
        return content, bool(file.read(1))


def read_newest(
    paths: Sequence[Path],
    max_bytes: int,
    what: str,
    left_out: Counter[str],
    ends: bool = False,
) -> Iterator[tuple[Path, bytes]]:
    """Files and their contents, the last file first, so many bytes together.

    What is more is counted in ``left_out``, by ``what`` it is; it is the beginning of a
    file, or where its end matters (``ends``), that is read.
    """
    budget = max_bytes
    for path in reversed(paths):
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - budget) if ends else 0)
            content = file.read(budget)
        if size > budget:
            left_out[f"part of more than {max_bytes >> 20} MiB of {what}"] += 1
        budget -= len(content)
        yield path, content


def read_beginning(path: Path, max_bytes: int = 2**20) -> str:
    """As :func:`read_start`, as a text, which says so where it was longer."""
    content, is_longer = read_start(path, max_bytes)
    text = content.decode(errors="replace")
    return f"{text}\n... and more than {max_bytes:,} bytes" if is_longer else text


def readable(text: str, length: int = 60) -> str:
    """A text as one line that any font, page and file can take; the middle is cut."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}\N{HORIZONTAL ELLIPSIS}{text[-length // 2 + 1 :]}"

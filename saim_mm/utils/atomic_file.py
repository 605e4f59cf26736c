"""Files that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_SUFFIX = ".part"


def write_atomically(
    path: Path,
    write: Callable[[BinaryIO], Any],
    check: Callable[[Path], Any] | None = None,
) -> None:
    """Writes a file beside its place, flushes it to disk and moves it there.

    So a reader, or a run that is killed, never sees half a file, and what stood there
    before stays until the new file is complete.

    Args:
        path: Where the file belongs; missing folders are made.
        write: Writes the content to an open file.
        check: Reads the file back before it is moved, and raises if it is not good. It
            gets the file's present path.

    Raises:
        OSError: If the disk is full, read-only or broken; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            _forget_cached(file.fileno())
        if check is not None:
            check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _flush_folder(path.parent)


def check_place(path: Path) -> None:
    """Stops before any work what could not be written after it.

    Args:
        path: Where a file belongs; its folder may be missing, and stays so.

    Raises:
        OSError: If it is a folder, or nothing can be written there; of the class that
            the system's own error has.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it.")
    try:
        there = next((p for p in path.parents if p.exists()), path.parent)
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise type(error)(
            f"{path}: cannot be written ({error.strerror}); name a place where you may "
            "write."
        ) from None


def check_new(path: Path, is_folder: bool = False) -> None:
    """As :func:`check_place`, where nothing may be written over either.

    Args:
        path: Where a file belongs, or a folder of files.
        is_folder: Whether it is a folder, which may be there and empty.

    Raises:
        FileExistsError: If there is something.
        OSError: As for :func:`check_place`.
    """
    is_empty = is_folder and path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and (is_folder or not path.is_dir()):
        raise FileExistsError(
            f"{path}: is there already; remove it, or give another name."
        )
    check_place(path / "file" if is_folder else path)


def write_json(
    path: Path, content: Any, indent: int | None = None, end: str = "\n"
) -> None:
    """Writes a JSON file, whole or not at all; missing folders are made.

    ``indent`` is that of :func:`json.dumps`; ``end`` follows the last bracket.

    Raises:
        OSError: If it cannot be written; ``path`` is as it was.
        TypeError: If something in the content is of another type.
    """
    write_text(path, json.dumps(content, indent=indent) + end)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; missing folders are made.

    Raises:
        OSError: If it cannot be written; ``path`` is as it was.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_parts(folder: Path) -> None:
    """Removes what killed runs left of :func:`write_atomically` in a folder."""
    for part in folder.glob(f".*{_SUFFIX}"):
        part.unlink(missing_ok=True)


def _forget_cached(descriptor: int) -> None:
    """Asks the system to serve the next read from the disk, not from memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _flush_folder(folder: Path) -> None:
    """Makes a rename outlast a power cut, where folders can be flushed."""
    with suppress(OSError):  # Windows, some network file systems
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

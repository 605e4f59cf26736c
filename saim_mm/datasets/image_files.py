"""Finding images, in a folder or by a list, and opening the files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip


def list_images(
    folder: str, extensions: tuple[str, ...] = IMAGE_SUFFIXES
) -> tuple[list[str], int]:
    """Finds the images below a folder; hidden files and ``__MACOSX`` are left out.

    Linked folders are followed. A folder that can be reached in several ways counts
    once, so links cannot make the walk endless nor list an image twice.

    Args:
        folder: Where to look.
        extensions: Suffixes in lower case; the case of a file's name does not matter.

    Returns:
        The sorted paths relative to ``folder``, and the number of other files seen.
    """
    images: list[str] = []
    others = 0
    pending, visited = [""], set()
    while pending:
        parent = pending.pop()
        status = os.stat(os.path.join(folder, parent))
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders = []
        with os.scandir(os.path.join(folder, parent)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if _is_folder(entry):
                    subfolders.append(f"{parent}{entry.name}/")
                elif entry.name.lower().endswith(extensions):
                    images.append(parent + entry.name)
                else:
                    others += 1
        # Sorted, or the disk would decide by which of two links a folder is reached.
        pending += sorted(subfolders, reverse=True)
    images.sort()
    return images, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir costs no stat but raises on a link to itself; isdir never raises.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def read_image_list(
    ann_file: str, extensions: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[str]:
    """Reads a text file of one path per line, as ImageNet's ``meta/train.txt``.

    The first line decides for all whether a label follows the path: it does if the
    line as a whole does not end in an image suffix. Labels are dropped.

    Args:
        ann_file: The text file; UTF-8, paths may contain spaces.
        extensions: Suffixes in lower case.

    Returns:
        The paths as written, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty or a line names no image.
    """
    if not os.path.isfile(ann_file):
        raise FileNotFoundError(
            f"annotation file {ann_file!r} does not exist; correct ann_file, or leave "
            "it out to use every image of the folder"
        )
    # surrogateescape: file names are bytes, and not all of them are valid UTF-8.
    with open(ann_file, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = file.read().rstrip().split("\n")
    if lines == [""]:
        raise ValueError(
            f"annotation file {ann_file!r} is empty; write one image path per line"
        )
    labelled = not lines[0].rstrip().lower().endswith(extensions)
    paths = []
    for number, line in enumerate(lines, 1):
        path = line.strip()
        if labelled and path:
            path = path.rsplit(None, 1)[0]
        if not path.lower().endswith(extensions):
            raise ValueError(
                f"line {number} of {ann_file!r} names no image: {line[:80]!r}; every "
                "line must be 'path', or every line 'path label', with a suffix out "
                f"of {', '.join(extensions)}"
            )
        paths.append(path)
    return paths


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file for reading, unbuffered, without ever waiting for anybody.

    Raises:
        OSError: If it cannot be opened, or is a FIFO, a device or the like.
    """
    # Looked at before it is opened, as opening a device may do things, and opened
    # without waiting, as another file may have come in its place.
    _check_regular(os.stat(path), path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    file = open(os.open(path, flags), "rb", buffering=0)  # noqa: SIM115
    try:
        _check_regular(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | Path, max_bytes: int) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: As for :func:`open_regular`, or if there are more than ``max_bytes``.
    """
    with open_regular(path) as file:
        # No more than it is said to hold: files that the system makes up may not end.
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            reason = f"{size} bytes, more than {max_bytes}"
            raise OSError(errno.EFBIG, reason, str(path))
        content = file.read(size)
        while len(content) < size and (more := file.read(size - len(content))):
            content += more
        return content


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        reason = "not a regular file: a FIFO, socket or device"
        raise OSError(errno.EINVAL, reason, str(path))

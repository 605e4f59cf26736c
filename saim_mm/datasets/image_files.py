"""Finding images, in a folder or by a list, and opening the files."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import BaseStorageBackend
from mmengine.logging import print_log

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip


def warn(text: str) -> None:
    """Logs a warning."""
    print_log(text, logger="current", level=logging.WARNING)


def suffixes_of(channels: int | None) -> tuple[str, ...]:
    """Suffixes of images; of given channels, as for ``LoadImage``, or photographs."""
    return IMAGE_SUFFIXES if channels is None else (*IMAGE_SUFFIXES, ".npy")


def list_images(
    folder: str, extensions: tuple[str, ...] = IMAGE_SUFFIXES
) -> tuple[list[str], Counter[str]]:
    """Finds the images below a folder; hidden files and ``__MACOSX`` are left out.

    Linked folders are followed. A folder that can be reached in several ways counts
    once, so links cannot make the walk endless nor list an image twice. One that
    cannot be read is named in the log.

    Args:
        folder: Where to look.
        extensions: Suffixes in lower case; the case of a file's name does not matter.
            ``""`` is every file.

    Returns:
        The sorted paths relative to ``folder``, and how much else was seen, by suffix.

    Raises:
        OSError: If ``folder`` itself cannot be read.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    pending, visited = [""], set[tuple[int, int]]()
    while pending:
        parent = pending.pop()
        path = os.path.join(folder, parent)
        subfolders = []
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or name == "__MACOSX":
                        continue
                    if _is_folder(entry):
                        subfolders.append(f"{parent}{name}/")
                    elif name.lower().endswith(extensions):
                        images.append(parent + name)
                    else:
                        others[_suffix(name)] += 1
        except OSError as error:
            if not parent:
                raise
            warn(f"{path!r} is left out: {error.strerror}")
            others["unreadable folders"] += 1
        # Sorted, or the disk would decide by which of two links a folder is reached.
        pending += sorted(subfolders, reverse=True)
    images.sort()
    return images, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir costs no stat but raises on a link to itself; isdir never raises.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return "without a suffix"
    # Of names that are no names of kinds, such as .0001, there may be a million.
    return suffix if suffix[1:].isalpha() and suffix.isascii() else "of other suffixes"


def describe_left_out(others: Counter[str]) -> str:
    """Says in one line what is left out: number and suffix of the most frequent."""
    if not others:
        return "nothing else lies there"
    ordered = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
    kinds = [f"{number} {suffix}" for suffix, number in ordered[:6]]
    more = ", ..." if len(ordered) > 6 else ""
    return f"{others.total()} left out ({', '.join(kinds)}{more})"


def warn_of_left_out(folder: str, images: int, others: Counter[str]) -> None:
    """Logs what :func:`list_images` left out, if it did."""
    if others:
        warn(
            f"{folder!r}: {images} images; {describe_left_out(others)}. To use images "
            "among them, rename them or name their suffixes in the dataset's extensions"
        )


def read_image_list(
    ann_file: str, extensions: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[str]:
    """Reads a text file of one path per line, as ImageNet's ``meta/train.txt``.

    The first line decides for all whether a label follows the path: it does if the
    line as a whole does not end in an image suffix. Labels are dropped.

    Args:
        ann_file: The text file; UTF-8, paths may contain spaces.
        extensions: Suffixes in lower case.

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
        check_size(size, max_bytes, path)
        content = file.read(size)
        while len(content) < size and (more := file.read(size - len(content))):
            content += more
        return content


def check_size(size: int, max_bytes: int, path: str | Path) -> None:
    """Raises ``OSError`` where more bytes than so many would be read."""
    if size > max_bytes:
        reason = f"{size} bytes, more than {max_bytes}"
        raise OSError(errno.EFBIG, reason, str(path))


class ReadingBackend(BaseStorageBackend):
    """A backend of MMEngine that cannot write; subclasses have ``get``."""

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """Returns what ``get`` does as text."""
        return self.get(filepath).decode(encoding)


def one_line(text: object) -> str:
    """The beginning of a text, or of an error's, without line breaks."""
    return " ".join(str(text).split())[:200]


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        reason = "not a regular file: a FIFO, socket or device"
        raise OSError(errno.EINVAL, reason, str(path))

"""The pictures that a run logged last, whoever logged them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .run_files import read_start, run_files

#: Shown first, in this order.
_FIRST = ("reconstruction", "loss_by_step")
_MAX_PICTURES = 24
_MAX_BYTES = 32 * 2**20
_BEGINS, _ENDS = b"\x89PNG\r\n", b"IEND\xaeB\x60\x82"


class LoggedPicture(NamedTuple):
    """A picture as it lies in the run's folder: step and content of the PNG file."""

    step: int
    png: bytes


def latest_pictures(work_dir: Path, left_out: Counter[str]) -> dict[str, LoggedPicture]:
    """The last whole picture of each name, of the latest start that has one.

    Args:
        work_dir: Of a run, whose hooks logged to MMEngine's ``LocalVisBackend``.
        left_out: Filled with what is not shown, in words.
    """
    paths: dict[str, list[tuple[Path, int, Path]]] = {}
    for path in run_files(work_dir, "*/vis_data/vis_image/*.png"):
        if match := re.fullmatch(r"(.+)_(\d{1,15})\.png", path.name):
            paths.setdefault(match[1], []).append((path.parent, int(match[2]), path))
    names = [name for name in _FIRST if name in paths]
    names += sorted(paths.keys() - set(names))
    if len(names) > _MAX_PICTURES:
        left_out[f"picture after the first {_MAX_PICTURES}"] = len(
            names[_MAX_PICTURES:]
        )
    budget, found = 2 * _MAX_BYTES, {}
    for name in names[:_MAX_PICTURES]:
        picture = _last_whole(paths[name], min(budget, _MAX_BYTES))
        if picture is not None:
            budget -= len(picture.png)
            found[name] = picture
    return found


def _last_whole(
    paths: list[tuple[Path, int, Path]], max_bytes: int
) -> LoggedPicture | None:
    """The last one, or the one before while that is being written."""
    for _, step, path in sorted(paths, reverse=True)[:2]:
        content, is_longer = read_start(path, max_bytes)
        if content.startswith(_BEGINS) and content.endswith(_ENDS) and not is_longer:
            return LoggedPicture(step, content)
    return None

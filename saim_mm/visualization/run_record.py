"""A run as its folder tells of it; nothing in it is executed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .config_values import config_values
from .loss_curve import LossCurve, loss_curve_of
from .run_files import read_beginning, read_start, run_files
from .run_log import RunLog, read_log
from .scalars import Series, join_starts, read_starts

_MAX_LIST = 4 * 2**20  # bytes of the list of broken images
#: Pictures that are shown first, in this order.
_FIRST = ("reconstruction", "loss_by_step")
_MAX_PICTURES = 24
_MAX_PICTURE = 32 * 2**20  # bytes of one; all of them twice as many
_BEGINS, _ENDS = b"\x89PNG\r\n", b"IEND\xaeB\x60\x82"


class LoggedPicture(NamedTuple):
    """A picture as it lies in the run's folder: step and content of the PNG file."""

    step: int
    png: bytes


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        name: The folder's.
        folder: The work dir.
        scalars: As :func:`read_scalars` gives them.
        starts: What each start logged, by its folder, the oldest first.
        config: The config of the latest start, as text.
        values: The same by dotted name.
        log: What the log tells.
        not_finite: Iterations of which ``FiniteGuardHook`` wrote a record.
        broken: Path and reason of each image that ``BrokenImageHook`` lists.
        written: Unix time at which log or scalars were last written to.
        pictures: The last one of each name that a hook logged.
        left_out: What was not read, in words.
        title: What it is called beside others; empty if it is the only one.
    """

    name: str
    folder: Path
    scalars: Mapping[str, Series]
    starts: Mapping[str, Mapping[str, Series]]
    config: str
    values: Mapping[str, str]
    log: RunLog
    not_finite: Sequence[int]
    broken: Sequence[tuple[str, str]]
    written: float | None
    pictures: Mapping[str, LoggedPicture]
    left_out: Counter[str]
    title: str = ""

    @property
    def curve(self) -> LossCurve:
        """Loss and learning rate; empty before a loss is logged."""
        return loss_curve_of(self.scalars)


def read_run(work_dir: str | Path) -> Run:
    """Reads a work dir, also while the run writes to it.

    Raises:
        OSError: If something there cannot be read.
    """
    folder, left_out = Path(work_dir), Counter[str]()
    starts = read_starts(folder, left_out)
    configs = run_files(folder, "*/vis_data/config.py")
    config = read_beginning(configs[-1]) if configs else ""
    log = read_log(folder, left_out)
    files = [*log.paths, *run_files(folder, "*/vis_data/scalars.json")]
    return Run(
        name=folder.resolve().name,
        folder=folder,
        scalars=join_starts(starts),
        starts=dict(reversed(starts.items())),
        config=config,
        values=config_values(config),
        log=log,
        not_finite=_not_finite(folder),
        broken=_broken(folder, left_out),
        written=max((path.stat().st_mtime for path in files), default=None),
        pictures=_pictures(folder, left_out),
        left_out=left_out,
    )


def _not_finite(folder: Path) -> list[int]:
    paths = run_files(folder, "not_finite/iter_*_rank_*.json")
    found = (re.match(r"iter_(\d{1,15})_", path.name) for path in paths)
    return sorted({int(match[1]) for match in found if match})


def _broken(folder: Path, left_out: Counter[str]) -> list[tuple[str, str]]:
    for path in run_files(folder, "broken_images.json"):
        content, _ = read_start(path, _MAX_LIST)
        try:
            entries = json.loads(content)
            return [(str(e["path"]), str(e["reason"])) for e in entries]
        except (ValueError, TypeError, KeyError, RecursionError):
            left_out["list of broken images that cannot be read"] += 1
    return []


def _pictures(folder: Path, left_out: Counter[str]) -> dict[str, LoggedPicture]:
    """The last whole picture of each name, of the latest start that has one."""
    logged: dict[str, list[tuple[Path, int, Path]]] = {}
    for path in run_files(folder, "*/vis_data/vis_image/*.png"):
        if match := re.fullmatch(r"(.+)_(\d{1,15})\.png", path.name):
            logged.setdefault(match[1], []).append((path.parent, int(match[2]), path))
    names = [name for name in _FIRST if name in logged]
    names += sorted(logged.keys() - set(names))
    if names[_MAX_PICTURES:]:
        more = len(names) - _MAX_PICTURES
        left_out[f"picture after the first {_MAX_PICTURES}"] = more
    budget, found = 2 * _MAX_PICTURE, {}
    for name in names[:_MAX_PICTURES]:
        # The last one, or the one before while that is being written.
        for _, step, path in sorted(logged[name], reverse=True)[:2]:
            png, is_longer = read_start(path, min(budget, _MAX_PICTURE))
            if png.startswith(_BEGINS) and png.endswith(_ENDS) and not is_longer:
                budget -= len(png)
                found[name] = LoggedPicture(step, png)
                break
    return found

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
from .loss_curve import LossCurve, read_loss_curve
from .run_files import read_beginning, read_start, run_files
from .run_log import RunLog, read_log
from .run_pictures import LoggedPicture, latest_pictures
from .scalars import Series, join_starts, read_starts

_MAX_LIST = 4 * 2**20  # bytes of the list of broken images


class Start(NamedTuple):
    """A start of a run that logged something.

    Attributes:
        name: Its folder, which MMEngine names by date and time.
        first: The step of the first loss it logged.
        last: And of the last one.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        name: The folder's.
        folder: The work dir.
        scalars: As :func:`read_scalars` gives them.
        starts: The oldest first.
        config: The config of the latest start, as text.
        values: The same by dotted name.
        log: What the log tells.
        not_finite: Iterations of which ``FiniteGuardHook`` wrote a record.
        broken: Path and reason of each image that ``BrokenImageHook`` lists.
        written: Unix time at which log or scalars were last written to.
        pictures: The last one of each name that a hook logged.
        left_out: What was not read, in words.
    """

    name: str
    folder: Path
    scalars: Mapping[str, Series]
    starts: Sequence[Start]
    config: str
    values: Mapping[str, str]
    log: RunLog
    not_finite: Sequence[int]
    broken: Sequence[tuple[str, str]]
    written: float | None
    pictures: Mapping[str, LoggedPicture]
    left_out: Counter[str]

    @property
    def curve(self) -> LossCurve | None:
        """Loss and learning rate, once a loss was logged."""
        if "loss" not in self.scalars:
            return None
        return read_loss_curve(self.folder, self.scalars)


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
        starts=[_start(*s) for s in reversed(starts.items()) if "loss" in s[1]],
        config=config,
        values=config_values(config),
        log=log,
        not_finite=_not_finite(folder),
        broken=_broken(folder, left_out),
        written=max((path.stat().st_mtime for path in files), default=None),
        pictures=latest_pictures(folder, left_out),
        left_out=left_out,
    )


def _start(name: str, scalars: Mapping[str, Series]) -> Start:
    steps = scalars["loss"].steps
    return Start(name, int(steps[0]), int(steps[-1]))


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

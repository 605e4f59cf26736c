"""What MMEngine's log of a run tells: its machine, its warnings, how far it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .run_files import read_beginning, read_newest, run_files

_MAX_LOGS = 100
_MAX_BYTES = 16 * 2**20
_ITERATION = re.compile(r"(?:Iter\(train\) +\[ *|step )(\d{1,15})/ *(\d{1,15})\b")
_EPOCH = re.compile(r"Epoch\(train\) +\[ *(\d{1,9})\]\[ *(\d{1,9})/ *(\d{1,9})\]")
_SAVED = re.compile(r"INFO - Saving checkpoint at (\d{1,15}) (epoch|iteration)s")
_WARNING = re.compile(
    r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - \S{1,60} - (WARNING|ERROR|CRITICAL) - "
    r"(.*(?:\n {2}.*)*)",  # the watchdog says more in indented lines
    re.M,
)
#: Of FiniteGuardHook, for the first step of a row.
_SKIPPED = re.compile(r"no step was made \(\d+ in a row, (\d{1,15}) in all\)")
#: Where in the code an error was logged; MMEngine says so of errors alone.
_PLACE = re.compile(r"^/\S* - \w+ - \d+ - ")
#: Last words of PreemptionHook and of WatchdogHook.
_ENDED = re.compile(
    r"INFO - (?P<signal>[^:\n]{1,60}: (?:saved|NOT saved)[^;\n]*)"
    r"|ERROR - .*(?P<stuck>rank \d[^\n]*\(exit code \d+\))"
)


class Warned(NamedTuple):
    """A warning or an error: its time and level as logged, and one or more lines."""

    time: str
    level: str
    text: str


@dataclass(frozen=True)
class RunLog:
    """What was read.

    Attributes:
        environment: Machine and libraries of the latest start; may be empty.
        warnings: Of all starts, the latest last.
        position: Iterations made, and to be made, by the last line that says so, where
            runs count iterations.
        epochs: The same where they count epochs: the epoch, from 1, the iteration in it
            and the iterations of an epoch.
        saved: The last checkpoint: a number, and ``epoch`` or ``iteration``.
        ended: How the latest start said that it ended early; empty if it did not.
    """

    environment: str
    warnings: Sequence[Warned]
    position: tuple[int, int] | None
    epochs: tuple[int, int, int] | None
    saved: tuple[int, str] | None
    ended: str
    paths: Sequence[Path]

    @property
    def skipped(self) -> int:
        """Steps that were not made, as far as the warnings say."""
        told = (_SKIPPED.search(warned.text) for warned in self.warnings)
        return max((int(found[1]) for found in told if found), default=0)


def read_log(work_dir: Path, left_out: Counter[str]) -> RunLog:
    """Reads the logs of the latest starts; ``left_out`` counts what is too much."""
    paths = run_files(work_dir, "*/*.log")[-_MAX_LOGS:]
    texts = [
        content.decode(errors="replace")
        for _, content in read_newest(paths, _MAX_BYTES, "logs", left_out, ends=True)
    ]
    # Evaluations leave logs in the work dir too.
    trains = (t for t in texts if _ITERATION.search(t) or _EPOCH.search(t))
    latest = next(trains, "")
    step, epoch, saved, ended = (
        _last(pattern, latest) for pattern in (_ITERATION, _EPOCH, _SAVED, _ENDED)
    )
    return RunLog(
        environment=_environment(paths),
        warnings=[
            Warned(time, level, _PLACE.sub("", said))
            for text in reversed(texts)
            for time, level, said in _WARNING.findall(text)
        ],
        position=step and (int(step[1]), int(step[2])),
        epochs=epoch and (int(epoch[1]), int(epoch[2]), int(epoch[3])),
        saved=saved and (int(saved[1]), saved[2]),
        ended=(ended["signal"] or ended["stuck"]) if ended else "",
        paths=paths,
    )


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    *_, last = [None, *pattern.finditer(text)]
    return last


def _environment(paths: list[Path]) -> str:
    """What MMEngine logged about machine and libraries at the latest start."""
    for path in reversed(paths):
        text = f"\n{read_beginning(path)}"
        _, start, rest = text.partition("\nSystem environment:\n")
        found, *end = re.split(r"^-{20,}$", rest, maxsplit=1, flags=re.M)
        if end:
            # The flags that PyTorch was compiled with say little and fill a page.
            found = re.sub(r"^  - Build settings:.*\n", "", found, flags=re.M)
            return start.lstrip() + found
    return ""

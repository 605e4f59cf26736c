"""What MMEngine's log of a run tells: its machine, its warnings, how far it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .run_files import read_beginning, read_end, run_files

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
    """A warning or an error.

    Attributes:
        time: As it stands in the log.
        level: ``WARNING``, ``ERROR`` or ``CRITICAL``.
        text: Of one or several lines.
    """

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

    environment: str = ""
    warnings: Sequence[Warned] = ()
    position: tuple[int, int] | None = None
    epochs: tuple[int, int, int] | None = None
    saved: tuple[int, str] | None = None
    ended: str = ""
    paths: Sequence[Path] = field(default=(), repr=False)

    @property
    def skipped(self) -> int:
        """Steps that were not made, as far as the warnings say."""
        told = (_SKIPPED.search(warned.text) for warned in self.warnings)
        return max((int(found[1]) for found in told if found), default=0)


def read_log(work_dir: Path, left_out: Counter[str]) -> RunLog:
    """Reads the logs of the latest starts; of long ones the end.

    Args:
        work_dir: Of a run.
        left_out: Filled with what was not read, in words.
    """
    paths = run_files(work_dir, "*/*.log")[-_MAX_LOGS:]
    texts = _read_ends(paths, left_out)
    latest = next(filter(_trains, reversed(texts)), "")
    return RunLog(
        environment=_environment(paths),
        warnings=[warned for text in texts for warned in _warnings(text)],
        position=_last(_ITERATION, latest),
        epochs=_last(_EPOCH, latest),
        saved=_saved(latest),
        ended=_ended(latest),
        paths=paths,
    )


def _read_ends(paths: list[Path], left_out: Counter[str]) -> list[str]:
    """The texts, oldest first; the latest come first when it is too much."""
    texts, budget = [], _MAX_BYTES
    for path in reversed(paths):
        content, is_longer = read_end(path, budget)
        budget -= len(content)
        if is_longer:
            left_out[f"part of more than {_MAX_BYTES >> 20} MiB of logs"] += 1
        texts.append(content.decode(errors="replace"))
    return texts[::-1]


def _trains(text: str) -> bool:
    """Whether a start trained; evaluations leave logs in the work dir too."""
    return bool(_ITERATION.search(text) or _EPOCH.search(text))


def _last(pattern: re.Pattern[str], text: str) -> tuple | None:
    *_, last = [None, *pattern.finditer(text)]
    return last and tuple(map(int, last.groups()))


def _saved(text: str) -> tuple[int, str] | None:
    *_, last = [None, *_SAVED.finditer(text)]
    return last and (int(last[1]), last[2])


def _ended(text: str) -> str:
    *_, last = [None, *_ENDED.finditer(text)]
    return (last["signal"] or last["stuck"]) if last else ""


def _warnings(text: str) -> list[Warned]:
    return [
        Warned(time, level, _PLACE.sub("", said))
        for time, level, said in _WARNING.findall(text)
    ]


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

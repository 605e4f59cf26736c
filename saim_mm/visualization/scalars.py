"""Every number that a run logged, by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from .figure import COLOURS, Picture, new_figure, plain_axes, render
from .run_files import read_newest, readable, run_files

#: What tells when a line was logged, and no more.
_COUNTERS = frozenset({"step", "iter", "epoch"})
#: What MMEngine also logs of a validation, by the names of training and, where hooks
#: count epochs, by another count.
_TIMES = frozenset({"time", "data_time"})
_OF_TRAINING = frozenset({"iter", "lr", "loss"})
_MAX_BYTES = 64 * 2**20
_MAX_LINE = 2**20
MAX_NAMES = 10_000
#: matplotlib fails near the largest float.
_MAX_DRAWN = 1e100


class Series(NamedTuple):
    """One number over a run.

    Attributes:
        steps: (L,), float: iterations, or epochs where a hook counts these.
        values: (L,), float; infinite for what no float can hold.
    """

    steps: np.ndarray
    values: np.ndarray


#: What was not logged.
EMPTY = Series(np.empty(0), np.empty(0))


def read_scalars(work_dir: str | Path) -> dict[str, Series]:
    """Reads the scalars that MMEngine's ``LocalVisBackend`` logged.

    A work dir has a folder per start of the run. The latest start counts, and of those
    before it what came before its first step, so a resumed run is whole.

    Args:
        work_dir: The work dir of a run, or a ``scalars.json``.

    Returns:
        By name; empty if nothing was logged.
    """
    return join_starts(read_starts(Path(work_dir), Counter()))


def read_starts(work_dir: Path, left_out: Counter[str]) -> dict[str, dict[str, Series]]:
    """As :func:`read_scalars`, for each start of the run, the latest first.

    What is odd or too much is counted in ``left_out``, in words.
    """
    starts: dict[str, dict[str, Series]] = {}
    names: set[str] = set()
    paths = [work_dir]
    if not work_dir.is_file():  # the folders are named by date and time
        paths = run_files(work_dir, "*/vis_data/scalars.json")
    for path, content in read_newest(paths, _MAX_BYTES, "scalars", left_out):
        points: dict[str, list[tuple[float, float]]] = {}
        for name, step, value in _parse(content, left_out):
            if name in names or len(names) < MAX_NAMES:
                names.add(name)
                points.setdefault(name, []).append((step, value))
            else:
                left_out[f"value of a name after the first {MAX_NAMES:,}"] += 1
        start = path.parent.parent.name
        starts[start] = {n: Series(*np.array(pairs).T) for n, pairs in points.items()}
    return starts


def join_starts(starts: Mapping[str, Mapping[str, Series]]) -> dict[str, Series]:
    """One series for each name, of starts of which the first one counts most."""
    joined: dict[str, Series] = {}
    for series in starts.values():
        for name, older in series.items():
            newer = joined.get(name, EMPTY)
            before = older.steps < (newer.steps[0] if len(newer.steps) else math.inf)
            pairs = zip(older, newer, strict=True)
            joined[name] = Series(*(np.append(o[before], n) for o, n in pairs))
    return joined


def _parse(
    content: bytes, left_out: Counter[str]
) -> Iterator[tuple[str, float, float]]:
    """Name, step and value; the last line may be cut off, as by a kill."""
    *lines, last = content.decode(errors="replace").split("\n")
    for line in (*lines, last):
        try:
            # As floats, or 10,000 digits would be an error, and 400 one later on.
            record = json.loads(line[:_MAX_LINE], parse_int=float)
            step = record["step"]
            ok = isinstance(step, float) and abs(step) < 2**53  # and not NaN
        except (ValueError, TypeError, KeyError, RecursionError):
            ok = False
        if not ok:
            if line.strip() and line is not last:
                left_out["line without a step"] += 1
            continue
        trains = _OF_TRAINING & record.keys()
        for name, value in record.items():
            if name in _TIMES and not trains:
                continue
            if name not in _COUNTERS and isinstance(value, float):
                yield name, step, value
            elif name not in _COUNTERS:
                left_out["value that is no number"] += 1


def drawable(values: np.ndarray) -> np.ndarray:
    """The values, and gaps for those that no axis can show."""
    return np.where(np.abs(values) < _MAX_DRAWN, values, np.nan)


def draw_scalar(title: str, series: Mapping[str, Series]) -> Picture:
    """A small plot of one number.

    The series are those of several runs, and may be empty; they take :data:`COLOURS` in
    turn.
    """
    figure = new_figure(3.2, 2.1)
    axes = figure.subplots()
    for (steps, values), colour in zip(series.values(), cycle(COLOURS), strict=False):
        marker = "." if len(values) < 30 else ""
        axes.plot(steps, drawable(values), lw=1, marker=marker, color=colour)
    axes.set_title(readable(title).replace("$", r"\$"), fontsize=9)  # not a formula
    axes.tick_params(labelsize=8)
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    plain_axes(axes)
    return render(figure)


def draw_scalars(
    scalars: Mapping[str, Series], names: Sequence[str], columns: int = 3
) -> Picture:
    """A small plot of each of some names, so many columns beside each other."""
    plots = [draw_scalar(name, {"": scalars[name]}) for name in names]
    blank = [np.full_like(plots[0], 255)] * (-len(plots) % columns)
    cells = [*plots, *blank]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])

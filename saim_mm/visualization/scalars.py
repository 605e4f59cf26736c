"""Every number that a run logged, by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .figure import Picture, new_figure, plain_axes, render
from .run_files import read_start, readable, run_files

#: What tells when a line was logged, and no more.
_COUNTERS = frozenset({"step", "iter", "epoch"})
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


def read_scalars(
    work_dir: str | Path, left_out: Counter[str] | None = None
) -> dict[str, Series]:
    """Reads the scalars that MMEngine's ``LocalVisBackend`` logged.

    A work dir has a folder per start of the run. The latest start counts, and of those
    before it what came before its first step, so a resumed run is whole.

    Args:
        work_dir: The work dir of a run, or a ``scalars.json``.
        left_out: Filled with what was not read, being odd or too much, in words.

    Returns:
        By name; empty if nothing was logged.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    left_out = Counter() if left_out is None else left_out
    budget = _MAX_BYTES
    for path in reversed(_scalar_files(Path(work_dir))):
        content, is_longer = read_start(path, budget)
        budget -= len(content)
        if is_longer:
            left_out[f"part of more than {_MAX_BYTES >> 20} MiB of scalars"] += 1
        older: dict[str, list[tuple[float, float]]] = {}
        for name, step, value in _parse(content, left_out):
            if name in points or name in older or len(points) + len(older) < MAX_NAMES:
                older.setdefault(name, []).append((step, value))
            else:
                left_out[f"value of a name after the first {MAX_NAMES:,}"] += 1
        for name, series in older.items():
            newer = points.get(name, [])
            first = newer[0][0] if newer else math.inf
            points[name] = [p for p in series if p[0] < first] + newer
    return {name: Series(*np.array(series).T) for name, series in points.items()}


def _scalar_files(work_dir: Path) -> list[Path]:
    """The files of scalars, oldest first; the folders are named by date and time."""
    if work_dir.is_file():
        return [work_dir]
    return run_files(work_dir, "*/vis_data/scalars.json")


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
        for name, value in record.items():
            if name not in _COUNTERS and isinstance(value, float):
                yield name, step, value
            elif name not in _COUNTERS:
                left_out["value that is no number"] += 1


def drawable(values: np.ndarray) -> np.ndarray:
    """The values, and gaps for those that no axis can show."""
    return np.where(np.abs(values) < _MAX_DRAWN, values, np.nan)


def draw_scalars(
    scalars: Mapping[str, Series], names: Sequence[str], columns: int = 3
) -> Picture:
    """A small plot for each of some names, so many columns beside each other."""
    rows = -(-len(names) // columns)
    figure = new_figure(9, 1.9 * rows)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell, name in zip(cells, names, strict=False):
        steps, values = scalars[name]
        few = len(values) < 30
        line = dict(lw=1, marker="." if few else "", color="tab:blue")
        cell.plot(steps, drawable(values), **line)
        title = readable(name).replace("$", r"\$")  # not a formula
        cell.set_title(title, fontsize=8)
        cell.tick_params(labelsize=7)
        cell.yaxis.get_offset_text().set_fontsize(7)
        plain_axes(cell)
    for cell in cells[len(names) :]:
        cell.set_axis_off()
    return render(figure)

"""Every number that a run logged, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .figure import new_figure, plain_axes, render

#: What tells when a line was logged, and no more.
_COUNTERS = frozenset({"step", "iter", "epoch"})


class Series(NamedTuple):
    """One number over a run.

    Attributes:
        steps: (L,), float: iterations, or epochs where a hook counts these.
        values: (L,), float.
    """

    steps: np.ndarray
    values: np.ndarray


def read_scalars(work_dir: str | Path) -> dict[str, Series]:
    """Reads the scalars that MMEngine's ``LocalVisBackend`` logged.

    A work dir has a folder per start of the run. The latest start counts, and of those
    before it what came before its first step, so a resumed run is whole.

    Args:
        work_dir: The work dir of a run, or a ``scalars.json``.

    Returns:
        By name; empty if nothing was logged.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for path in _scalar_files(Path(work_dir)):
        newer: dict[str, list[tuple[float, float]]] = {}
        for name, step, value in _read(path):
            newer.setdefault(name, []).append((step, value))
        for name, series in newer.items():
            older = [p for p in points.get(name, []) if p[0] < series[0][0]]
            points[name] = older + series
    return {name: Series(*np.array(series).T) for name, series in points.items()}


def _scalar_files(work_dir: Path) -> list[Path]:
    """The files of scalars, oldest first; the folders are named by date and time."""
    if work_dir.is_file():
        return [work_dir]
    return sorted(work_dir.glob("*/vis_data/scalars.json"))


def _read(path: Path) -> Iterator[tuple[str, float, float]]:
    """Name, step and value; what a killed run cut off is left out."""
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not _is_number(record.get("step")):
            continue
        for name, value in record.items():
            if name not in _COUNTERS and _is_number(value):
                yield name, float(record["step"]), float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def draw_scalars(
    scalars: Mapping[str, Series], names: Sequence[str], columns: int = 3
) -> np.ndarray:
    """A small plot for each of some numbers.

    Args:
        scalars: Of :func:`read_scalars`.
        names: Which, at least one.
        columns: Plots beside each other.

    Returns:
        The picture, (height, width, 3), uint8, RGB.
    """
    rows = -(-len(names) // columns)
    figure = new_figure(9, 1.9 * rows)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell, name in zip(cells, names, strict=False):
        steps, values = scalars[name]
        few = len(values) < 30
        cell.plot(steps, values, lw=1, marker="." if few else "", color="tab:blue")
        cell.set_title(name, fontsize=8)
        cell.tick_params(labelsize=7)
        cell.yaxis.get_offset_text().set_fontsize(7)
        plain_axes(cell)
    for cell in cells[len(names) :]:
        cell.set_axis_off()
    return render(figure)

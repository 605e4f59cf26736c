"""Runs on one page: HTML without scripts or links, pictures inside.

Everything that comes from a run is escaped, and nothing of it is executed: the config
is shown as text. The page can be mailed, or opened from a disk: it holds files of the
runs' own folders only (see :mod:`run_files`), and says where something was too much.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..utils.atomic_file import write_atomically
from . import html_page as page
from .config_values import differing_values
from .figure import Picture
from .loss_curve import draw_loss_curves, read_loss_curve
from .run_files import readable
from .run_record import Run, read_run
from .run_state import describe_state, facts, run_state, starts, troubles
from .scalars import EMPTY, draw_scalar, drawable

#: Shown by the loss curve, or of no interest.
_NOT_PLOTTED = frozenset({"loss", "lr", "base_lr", "momentum", "memory"})
_SPEED = ("images_per_s", "time", "data_time", "data_share", "mfu")
_MAX_PLOTS = 60


def write_report(
    work_dirs: str | Path | Sequence[str | Path],
    path: str | Path,
    pictures: Mapping[str, Picture] | None = None,
) -> None:
    """Writes the report of a run, or of several beside each other.

    Args:
        work_dirs: The work dir, or several, of runs that logged with
            ``LocalVisBackend``.
        path: The file, ending in ``.html``; it is written whole or not at all.
        pictures: Further pictures by title, (H, W, 3) uint8 RGB. Those that hooks
            logged last are shown without being given.

    Raises:
        ValueError: If one of them holds neither a log nor a logged loss.
    """
    runs = read_runs(work_dirs)
    for run in runs:
        if run.written is None:
            read_loss_curve(run.folder)  # says what is missing
    write_page(runs, path, pictures)


def read_runs(work_dirs: str | Path | Sequence[str | Path]) -> list[Run]:
    """Reads one work dir, or several, whose titles tell them from each other."""
    if isinstance(work_dirs, (str, Path)):
        work_dirs = [work_dirs]
    runs = [read_run(folder) for folder in work_dirs]
    if len(runs) == 1:
        return runs
    titles = [run.name for run in runs]
    if len(set(titles)) < len(titles):  # from where they part
        folders = [run.folder.resolve() for run in runs]
        top = os.path.commonpath([folder.parent for folder in folders])
        titles = [str(folder.relative_to(top)) for folder in folders]
    return [replace(run, title=t) for run, t in zip(runs, titles, strict=True)]


def write_page(
    runs: Sequence[Run],
    path: str | Path,
    pictures: Mapping[str, Picture] | None = None,
    refresh: int | None = None,
) -> None:
    """As :func:`write_report`, of what :func:`read_runs` gave; it may be nothing yet.

    A browser loads the page again after ``refresh`` seconds, if given.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    parts = [
        page.heading(runs[0].name if len(runs) == 1 else f"{len(runs)} runs", 1),
        *_states(runs),
        *_curves(runs),
        *_pictures(runs, pictures or {}),
        *_probes(runs),
        *_troubles(runs),
        *_configs(runs),
        page.heading("Environment"),
        *(
            page.preformatted(run.log.environment, "No log was found.", run.title)
            for run in runs
        ),
    ]
    title = ", ".join(run.title or run.name for run in runs)
    content = page.document(title, parts, refresh)
    write_atomically(Path(path), lambda file: file.write(content))


class LiveReport:
    """Writes the page of runs that go on, at most so often.

    Args:
        work_dirs: The work dirs; nothing need be logged there yet.
        path: The page.
        interval: Least seconds between two pages.
        max_share: Largest share of the time that writing may take, from the second page
            on: what the first one takes is not known before.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        work_dirs: Sequence[str | Path],
        path: str | Path,
        interval: float,
        max_share: float,
    ) -> None:
        if not interval > 0:
            raise ValueError(
                f"interval={interval!r} must be a positive number of seconds between "
                "two pages, such as 60"
            )
        if not 0 < max_share <= 1:
            raise ValueError(
                f"max_share={max_share!r} must be greater than 0 and at most 1; 0.02 "
                "spends at most 2 % of the time"
            )
        self.work_dirs, self.path = list(work_dirs), Path(path)
        self.interval, self.max_share = interval, max_share
        self._pause = self._next = 0.0

    def pause(self) -> float:
        """Seconds until the next page is due, at least 0."""
        return max(0.0, self._next - time.monotonic())

    def write(self, last: bool = False) -> bool:
        """Writes the page as things are now, and tells whether all runs have ended.

        Unless it is the last one, a browser loads it again.

        Raises:
            OSError: If it cannot be written.
        """
        begin = time.monotonic()
        try:
            runs = read_runs(self.work_dirs)
            ended = all(run_state(run, time.time()).ended for run in runs)
            refresh = None if last or ended else math.ceil(max(5, self._pause))
            write_page(runs, self.path, refresh=refresh)
        finally:
            now = time.monotonic()
            self._pause = max(self.interval, (now - begin) / self.max_share)
            self._next = now + self._pause
        return ended


def _states(runs: Sequence[Run]) -> list[str]:
    now, boxes = time.time(), []
    for run in runs:
        state = run_state(run, now)
        text = describe_state(state, now)
        share = state.total and min(1.0, state.done / state.total)
        name = f"{readable(run.title)}: " if run.title else ""
        boxes.append(page.state_box(state.word.split()[0], name + text, share))
    return [*boxes, _table(runs, [facts(run) for run in runs])]


def _troubles(runs: Sequence[Run]) -> list[str]:
    parts = [page.heading("Warnings")]
    for run in runs:
        rows, more = troubles(run)
        none = "None: no warning in the log, no step left out, no broken image."
        parts += [
            page.heading(run.title, 3),
            page.table(rows, numbers=False) if rows else page.paragraph(none),
            page.paragraph(more),
        ]
        begun = starts(run)
        if len(begun) > 1:
            title = f"{len(begun)} starts, and the iterations that each logged"
            parts += [page.heading(title, 3), page.table(begun)]
    return parts


def _curves(runs: Sequence[Run]) -> list[str]:
    parts = [page.heading("Curves"), page.legend([run.title for run in runs])]
    if not any("loss" in run.scalars for run in runs):
        return [*parts, page.paragraph("No loss was logged.")]
    # Also of a run that logged none yet, so that the others keep their colours.
    curves = {run.title: run.curve for run in runs}
    # As small as a phone: text keeps its share of a picture's width.
    picture = draw_loss_curves(curves, size=(5.6, 3.8))
    parts.append(page.image(picture, "loss and learning rate", "large"))
    names = sorted({name for run in runs for name in run.scalars} - _NOT_PLOTTED)
    groups = {
        "Accuracy": [name for name in names if _is_accuracy(name)],
        "Speed": [name for name in _SPEED if name in names],
    }
    grouped = {name for group in groups.values() for name in group}
    groups["Other numbers"] = [name for name in names if name not in grouped]
    left = _MAX_PLOTS
    for title, group in groups.items():
        plots = []
        for name in group[:left]:
            series = {run.title: run.scalars.get(name, EMPTY) for run in runs}
            plots.append(page.image(draw_scalar(name, series), name))
        left -= len(plots)
        parts += [page.heading(title, 3), page.grid(plots)] if plots else []
    return parts + _odd_values(runs, max(0, len(names) - _MAX_PLOTS))


def _odd_values(runs: Sequence[Run], not_drawn: int) -> list[str]:
    """What the curves do not show, as text."""
    rows: list[tuple[str, str]] = []
    if not_drawn:
        reason = f"name that is not drawn, as there are more than {_MAX_PLOTS}"
        rows.append((reason, f"{not_drawn:,}"))
    for run in runs:
        mark = f" ({run.title})" if run.title else ""
        rows += [(f"{name}{mark}", f"{n:,}") for name, n in run.left_out.items()]
        for name, series in run.scalars.items():
            odd = series.values[np.isnan(drawable(series.values))]
            text = f"{len(odd):,} of {len(series.values):,}, the last "
            rows += [(name + mark, f"{text}{odd[-1]}")] if len(odd) else []
    title = page.heading("Not shown, or only in part", 3)
    return [title, page.table(rows)] if rows else []


def _pictures(runs: Sequence[Run], given: Mapping[str, Picture]) -> list[str]:
    parts = [page.heading("Pictures")]
    for title, picture in given.items():
        parts += [page.heading(title, 3), page.image(picture, title)]
    for name in dict.fromkeys(name for run in runs for name in run.pictures):
        found = [(run, run.pictures[name]) for run in runs if name in run.pictures]
        if len(runs) == 1:
            step = found[0][1].step
            parts.append(page.heading(f"{name}, iteration {step:,}", 3))
            parts.append(page.png(found[0][1].png, name))
            continue
        figures = [
            page.figure(page.png(it.png, name), f"{run.title}, iteration {it.step:,}")
            for run, it in found
        ]
        parts += [page.heading(name, 3), page.grid(figures, "beside")]
    none = "None: no PictureHook logged any, and none was drawn for this report."
    return parts if parts[1:] else [*parts, page.paragraph(none)]


def _probes(runs: Sequence[Run]) -> list[str]:
    """Last and best of every accuracy that was logged."""
    columns = [
        {
            name: f"{series.values[-1]:.2f} at {series.steps[-1]:g}; best "
            f"{series.values.max():.2f} at {series.steps[series.values.argmax()]:g}"
            for name, series in sorted(run.scalars.items())
            if _is_accuracy(name)
        }
        for run in runs
    ]
    none = page.paragraph("None was logged.")
    return [page.heading("Probes"), _table(runs, columns) if any(columns) else none]


def _configs(runs: Sequence[Run]) -> list[str]:
    parts = [page.heading("Config")]
    rows = differing_values([run.values for run in runs])
    if rows:
        shown = [
            (name, *(readable(value, 200) for value in values))
            for name, values in rows.items()
        ]
        parts.append(page.table(shown, [run.title for run in runs], numbers=False))
    elif len(runs) > 1:
        parts.append(page.paragraph("The configs do not differ."))
    return parts + [
        page.preformatted(run.config, "No config was logged.", run.title)
        for run in runs
    ]


def _is_accuracy(name: str) -> bool:
    return name.startswith("accuracy")


def _table(runs: Sequence[Run], columns: Sequence[Mapping[str, str]]) -> str:
    """A column for each run; ``-`` where one lacks a row."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(c.get(name, "-") for c in columns)) for name in names]
    return page.table(rows, [run.title for run in runs])

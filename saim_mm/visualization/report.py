"""Runs on one page: HTML without scripts or links, pictures inside.

Everything that comes from a run is escaped, and nothing of it is executed: the config
is shown as text. The page can be mailed, or opened from a disk: it holds files of the
runs' own folders only (see :mod:`run_files`), and says where something was too much.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..utils.atomic_file import write_atomically
from . import html_page as page
from .config_values import differing_values
from .figure import Picture
from .loss_curve import LossCurve, draw_loss_curves, read_loss_curve
from .run_files import readable
from .run_record import Run, read_run
from .run_state import run_state
from .run_words import describe_state, facts, starts, troubles
from .scalars import Series, draw_scalar, drawable

#: Shown by the loss curve, or of no interest.
_NOT_PLOTTED = frozenset({"loss", "lr", "base_lr", "momentum", "memory"})
_SPEED = ("images_per_s", "time", "data_time", "data_share", "mfu")
_MAX_PLOTS = 60
_EMPTY = Series(np.empty(0), np.empty(0))
_NO_CURVE = LossCurve(np.empty(0, int), np.empty(0), np.empty(0))


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
            read_loss_curve(run.folder, run.scalars)  # says what is missing
    write_page(runs, path, pictures)


def read_runs(work_dirs: str | Path | Sequence[str | Path]) -> list[Run]:
    """Reads one work dir, or several."""
    if isinstance(work_dirs, (str, Path)):
        work_dirs = [work_dirs]
    return [read_run(folder) for folder in work_dirs]


def write_page(
    runs: Sequence[Run],
    path: str | Path,
    pictures: Mapping[str, Picture] | None = None,
    refresh: int | None = None,
) -> None:
    """As :func:`write_report`, of runs that were read; they may have logged nothing.

    Args:
        runs: At least one.
        path: The file.
        pictures: Further pictures by title.
        refresh: Seconds after which a browser is to load the page again, if at all.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    labels = run_labels(runs)
    parts = [
        page.heading(labels[0] if len(runs) == 1 else f"{len(runs)} runs", 1),
        *_states(runs, labels),
        *_curves(runs, labels),
        *_pictures(runs, labels, pictures or {}),
        *_probes(runs, labels),
        *_troubles(runs, labels),
        *_configs(runs, labels),
        *_machines(runs, labels),
    ]
    title = ", ".join(labels)
    content = page.document(title, parts, refresh)
    write_atomically(Path(path), lambda file: file.write(content))


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run; if two are called the same, from where they part."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = [run.folder.resolve() for run in runs]
    top = os.path.commonpath([folder.parent for folder in folders])
    return [str(folder.relative_to(top)) for folder in folders]


def _states(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    now, boxes = time.time(), []
    for run, label in zip(runs, labels, strict=True):
        state = run_state(run, now)
        text = describe_state(run, state, now)
        share = state.total and min(1.0, state.done / state.total)
        name = f"{readable(label)}: " if len(runs) > 1 else ""
        boxes.append(page.state_box(state.word.split()[0], name + text, share))
    head = labels if len(runs) > 1 else ()
    return [*boxes, page.table(_columns([facts(run) for run in runs]), head)]


def _troubles(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    parts = [page.heading("Warnings")]
    for run, label in zip(runs, labels, strict=True):
        parts += [page.heading(label, 3)] if len(runs) > 1 else []
        rows, more = troubles(run)
        parts.append(
            page.table(rows, numbers=False)
            if rows
            else page.paragraph(
                "None: no warning in the log, no step left out, no broken image."
            )
        )
        parts += [page.paragraph(more)] if more else []
        if len(run.starts) > 1:
            title = f"{len(run.starts)} starts, and the iterations that each logged"
            parts.append(page.heading(title, 3))
            parts.append(page.table(starts(run)))
    return parts


def _curves(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    # Also of a run that logged none yet, so that the others keep their colours.
    curves = {
        label: run.curve or _NO_CURVE for label, run in zip(labels, runs, strict=True)
    }
    parts = [page.heading("Curves"), page.legend(labels)]
    if all(curve is _NO_CURVE for curve in curves.values()):
        return [*parts, page.paragraph("No loss was logged.")]
    # As small as a phone: text keeps its share of a picture's width.
    picture = draw_loss_curves(curves, size=(5.6, 3.8))
    parts.append(page.image(picture, "loss and learning rate", "large"))
    names = sorted({name for run in runs for name in run.scalars} - _NOT_PLOTTED)
    accuracies = [name for name in names if _is_accuracy(name)]
    speeds = [name for name in _SPEED if name in names]
    others = [name for name in names if name not in {*accuracies, *speeds}]
    plotted, left = _MAX_PLOTS, max(0, len(names) - _MAX_PLOTS)
    for title, group in (
        ("Accuracy", accuracies),
        ("Speed", speeds),
        ("Other numbers", others),
    ):
        plots = [_plot(runs, labels, name) for name in group[:plotted]]
        plotted -= len(plots)
        parts += [page.heading(title, 3), page.grid(plots)] if plots else []
    return parts + _odd_values(runs, left)


def _plot(runs: Sequence[Run], labels: Sequence[str], name: str) -> str:
    series = {
        label: run.scalars.get(name, _EMPTY)
        for label, run in zip(labels, runs, strict=True)
    }
    return page.image(draw_scalar(name, series), name)


def _odd_values(runs: Sequence[Run], not_drawn: int) -> list[str]:
    """What the curves do not show, as text."""
    rows: list[tuple[str, str]] = []
    if not_drawn:
        reason = f"name that is not drawn, as there are more than {_MAX_PLOTS}"
        rows.append((reason, f"{not_drawn:,}"))
    for run in runs:
        mark = f" ({run.name})" if len(runs) > 1 else ""
        rows += [(f"{name}{mark}", f"{n:,}") for name, n in run.left_out.items()]
        for name, series in run.scalars.items():
            odd = series.values[np.isnan(drawable(series.values))]
            text = f"{len(odd):,} of {len(series.values):,}, the last "
            rows += [(name + mark, f"{text}{odd[-1]}")] if len(odd) else []
    title = page.heading("Not shown, or only in part", 3)
    return [title, page.table(rows)] if rows else []


def _pictures(
    runs: Sequence[Run], labels: Sequence[str], given: Mapping[str, Picture]
) -> list[str]:
    parts = [page.heading("Pictures")]
    for title, picture in given.items():
        parts += [page.heading(title, 3), page.image(picture, title)]
    for name in dict.fromkeys(name for run in runs for name in run.pictures):
        shown = [
            (label, run.pictures[name])
            for label, run in zip(labels, runs, strict=True)
            if name in run.pictures
        ]
        if len(runs) == 1:
            step = shown[0][1].step
            parts.append(page.heading(f"{name}, iteration {step:,}", 3))
            parts.append(page.png(shown[0][1].png, name))
        else:
            figures = (
                page.figure(
                    page.png(found.png, name), f"{label}, iteration {found.step:,}"
                )
                for label, found in shown
            )
            parts += [page.heading(name, 3), page.grid(figures, "beside")]
    if len(parts) == 1:
        parts.append(
            page.paragraph(
                "None: no PictureHook logged any, and none was drawn for this report."
            )
        )
    return parts


def _probes(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
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
    head = labels if len(runs) > 1 else ()
    rows = _columns(columns)
    found = page.table(rows, head) if rows else page.paragraph("None was logged.")
    return [page.heading("Probes"), found]


def _configs(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    parts = [page.heading("Config")]
    if len(runs) == 1:
        return [*parts, page.preformatted(runs[0].config, "No config was logged.")]
    rows = differing_values([run.values for run in runs])
    if rows:
        shown = [
            (name, *(readable(value, 200) for value in values))
            for name, values in rows.items()
        ]
        parts.append(page.table(shown, labels, numbers=False))
    else:
        parts.append(page.paragraph("The configs do not differ."))
    return parts + [
        page.preformatted(run.config, f"{label}: no config was logged.", label)
        for run, label in zip(runs, labels, strict=True)
    ]


def _machines(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    several = len(runs) > 1
    return [page.heading("Environment")] + [
        page.preformatted(
            run.log.environment, "No log was found.", label if several else ""
        )
        for run, label in zip(runs, labels, strict=True)
    ]


def _is_accuracy(name: str) -> bool:
    return name.startswith("accuracy")


def _columns(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Rows of a table from its columns; ``-`` where one lacks a row."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(c.get(name, "-") for c in columns)) for name in names]

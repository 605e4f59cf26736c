"""How a run went: loss and learning rate over its iterations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .figure import new_figure, plain_axes, render

_COLOUR = "tab:blue"


@dataclass(frozen=True)
class LossCurve:
    """What a run logged, one entry per log line.

    Attributes:
        iterations: (L,), int, counted from 1.
        loss: (L,), as logged: a mean over the log processor's window.
        lr: (L,), learning rate of the optimiser's first group.
    """

    iterations: np.ndarray
    loss: np.ndarray
    lr: np.ndarray

    def first(self) -> float:
        """The loss that was logged first."""
        return float(self.loss[0])

    def last(self, window: int = 10) -> float:
        """The mean of the losses logged last; a single batch says little."""
        return float(self.loss[-window:].mean())


def read_loss_curve(work_dir: str | Path) -> LossCurve:
    """Reads the scalars that MMEngine's ``LocalVisBackend`` logged.

    A work dir has a folder per start of the run. The latest start counts, and of those
    before it what came before its first iteration, so a resumed run is whole.

    Args:
        work_dir: The work dir of a run, or a ``scalars.json``.

    Raises:
        ValueError: If no loss was logged there.
    """
    records: list[dict[str, Any]] = []
    for path in reversed(_scalar_files(Path(work_dir))):
        older = list(_read_records(path))
        if records:
            older = [r for r in older if r["step"] < records[0]["step"]]
        records = older + records
    if not records:
        raise ValueError(
            f"{str(work_dir)!r} holds no logged loss; give the work dir of a training "
            "run with vis_backends=[dict(type='LocalVisBackend')]."
        )
    return LossCurve(
        iterations=np.array([r["step"] for r in records]),
        loss=np.array([r["loss"] for r in records], dtype=float),
        lr=np.array([r.get("lr", np.nan) for r in records], dtype=float),
    )


def _scalar_files(work_dir: Path) -> list[Path]:
    """The files of scalars, oldest first; the folders are named by date and time."""
    if work_dir.is_file():
        return [work_dir]
    return sorted(work_dir.glob("*/vis_data/scalars.json"))


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The training records of a file; a line that a killed run cut off is left out."""
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "loss" in record and "step" in record:
            yield record


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average (L,) -> (L,).

    It is centred. At the start, where a loss falls steeply, it narrows, or the curve
    would begin below the first loss; at the end it looks back only, or the curve would
    end in the noise of the last batch.

    Raises:
        ValueError: If the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window={window} must be at least 1; 1 does not smooth.")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(index, window // 2)
    after = np.minimum(before, index[::-1])
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def draw_loss_curve(curve: LossCurve, title: str = "Pretraining loss") -> np.ndarray:
    """Loss above, as logged and smoothed, and the learning rate below.

    Args:
        curve: What was logged.
        title: Heading of the picture.

    Returns:
        The picture, (height, width, 3), uint8, RGB.
    """
    figure = new_figure(7, 4.5)
    loss, lr = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _draw_loss(loss, curve)
    loss.set_title(title)
    lr.plot(curve.iterations, curve.lr, color="0.35")
    lr.set_ylabel("learning rate")
    lr.set_xlabel("iteration")
    lr.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (loss, lr):
        plain_axes(axes)
    figure.align_ylabels()
    return render(figure)


def _draw_loss(axes: Axes, curve: LossCurve) -> None:
    window = max(1, len(curve.loss) // 20) | 1  # odd: it has a centre
    axes.plot(
        curve.iterations, curve.loss, color=_COLOUR, alpha=0.3, lw=1, label="logged"
    )
    axes.plot(
        curve.iterations,
        smooth(curve.loss, window),
        color=_COLOUR,
        lw=2,
        label=f"mean of {window}",
    )
    axes.set_ylabel("loss")
    axes.legend(frameon=False)

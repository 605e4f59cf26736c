"""How a run went: loss and learning rate over its iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from .figure import COLOURS, Picture, new_figure, plain_axes, render
from .run_files import readable
from .scalars import EMPTY, Series, drawable, read_scalars


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


def loss_curve_of(scalars: Mapping[str, Series]) -> LossCurve:
    """Loss and learning rate of scalars; empty if no loss was logged."""
    loss, rate = scalars.get("loss", EMPTY), scalars.get("lr", EMPTY)
    rates = dict(zip(rate.steps, rate.values, strict=True))
    lr = np.array([rates.get(step, np.nan) for step in loss.steps])
    return LossCurve(loss.steps.astype(int), loss.values, lr)


def read_loss_curve(work_dir: str | Path) -> LossCurve:
    """Takes loss and learning rate out of what :func:`read_scalars` reads.

    Raises:
        ValueError: If no loss was logged there.
    """
    scalars = read_scalars(work_dir)
    if "loss" not in scalars:
        raise ValueError(
            f"{str(work_dir)!r} holds no logged loss; give the work dir of a training "
            "run with vis_backends=[dict(type='LocalVisBackend')]."
        )
    return loss_curve_of(scalars)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average (L,) -> (L,); gaps (NaN) count in no mean.

    It is centred. At the start, where a loss falls steeply, it narrows, or the curve
    would begin below the first loss; at the end it looks back only, or the curve would
    end in the noise of the last batch.

    Raises:
        ValueError: If the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window={window} must be at least 1; 1 does not smooth.")
    is_known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(is_known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(is_known)])
    index = np.arange(len(values))
    before = np.minimum(index, window // 2)
    after = np.minimum(before, index[::-1])
    start, stop = index - before, index + after + 1
    with np.errstate(invalid="ignore"):  # where nothing is known
        return (sums[stop] - sums[start]) / (counts[stop] - counts[start])


def draw_loss_curve(curve: LossCurve, title: str = "Training loss") -> Picture:
    """Loss above, as logged and smoothed, and the learning rate below."""
    return draw_loss_curves({"": curve}, title)


def draw_loss_curves(
    curves: Mapping[str, LossCurve],
    title: str = "Training loss",
    size: tuple[float, float] = (7, 4.5),
) -> Picture:
    """Loss and learning rate of runs in one plot of so many inches.

    The curves are given by the name of the run, of which the legend tells if there are
    several; they take :data:`COLOURS` in turn.
    """
    figure = new_figure(*size)
    loss, lr = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    several = len(curves) > 1
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        window = max(1, len(curve.loss) // 20) | 1  # odd: it has a centre
        losses, steps = drawable(curve.loss), curve.iterations
        called = readable(name, 40).replace("$", r"\$")
        label = called if several else f"mean of {window}"
        logged = None if several else "logged"
        loss.plot(steps, losses, color=colour, alpha=0.3, lw=1, label=logged)
        loss.plot(steps, smooth(losses, window), color=colour, lw=2, label=label)
        lr.plot(steps, drawable(curve.lr), color=colour if several else "0.35")
    loss.set(title=title, ylabel="loss")
    loss.legend(frameon=False)
    lr.set(xlabel="iteration", ylabel="learning rate")
    lr.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    lr.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (loss, lr):
        plain_axes(axes)
    figure.align_ylabels()
    return render(figure)

"""Where a run is: how far, whether it goes on, and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .run_record import Run

#: Seconds without a line after which a run is not called running: LiveLoggerHook writes
#: one a minute. With other loggers, three times what lies between two lines of theirs.
_SILENCE = 180.0
_LINES = 3


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        word: ``not begun``, ``running``, ``silent``, ``stopped`` or ``finished``.
        done: Iterations made.
        total: Iterations to be made in all, if that is known.
        left: Seconds that it will still take, by the last iterations; if it runs.
        silent: Seconds since something was written, if something was.
        reason: Why it stopped.
    """

    word: str
    done: int
    total: int | None
    left: float | None
    silent: float | None
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, unless it is started again."""
        return self.word in ("finished", "stopped")


def run_state(run: Run, now: float) -> RunState:
    """Where a run is at a Unix time ``now``."""
    done, total = _position(run)
    silent = None if run.written is None else max(0.0, now - run.written)
    seconds = _seconds_per_iteration(run)
    if total is not None and done >= total:
        word = "finished"
    elif run.log.ended:
        word = "stopped"
    elif not done:
        word = "not begun"
    else:
        gap = _LINES * _iterations_per_line(run) * (seconds or 0.0)
        word = "running" if (silent or 0.0) <= max(_SILENCE, gap) else "silent"
    left = None
    if word == "running" and total is not None and seconds is not None:
        left = max(0.0, (total - done) * seconds - (silent or 0.0))
    return RunState(word, done, total, left, silent, run.log.ended)


def _position(run: Run) -> tuple[int, int | None]:
    """Iterations made, and in all, by scalars, log and the last checkpoint."""
    logged = run.scalars.get("loss")
    done = 0 if logged is None or not len(logged.steps) else int(logged.steps.max())
    total, length = _number(run, "train_cfg.max_iters"), None
    if run.log.epochs is not None:
        epoch, step, length = run.log.epochs
        done = max(done, (epoch - 1) * length + step)
        epochs = _number(run, "train_cfg.max_epochs")
        total = None if epochs is None else epochs * length
    if run.log.position is not None:
        step, total = run.log.position
        done = max(done, step)
    if run.log.saved is not None:
        number, unit = run.log.saved
        done = max(done, number * (length or 0) if unit == "epoch" else number)
    return done, total


def _number(run: Run, option: str) -> int | None:
    value = run.values.get(option, "")
    return int(value) if value.isdecimal() and len(value) < 16 else None


def _seconds_per_iteration(run: Run) -> float | None:
    logged = run.scalars.get("time")
    if logged is None or not np.isfinite(logged.values[-10:]).any():
        return None
    times = logged.values[-10:]
    return float(times[np.isfinite(times)].mean())


def _iterations_per_line(run: Run) -> float:
    steps = run.scalars["loss"].steps if "loss" in run.scalars else np.empty(0)
    return float(np.diff(steps[-10:]).max()) if len(steps) > 1 else 1.0

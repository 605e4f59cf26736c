"""Where a run is, when it will be done, and what is known of it, in words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from .run_record import Run
from .scalars import EMPTY

#: Seconds without a line after which a run is not called running: LiveLoggerHook writes
#: one a minute. With other loggers, three times what lies between two lines of theirs.
_SILENCE = 180.0
_LINES = 3
_MAX_WARNINGS = 40
_MAX_BROKEN = 20
#: Longer than any run; what a damaged log says may be more.
_MAX_SECONDS = 10 * 365 * 86400


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
    times = run.scalars.get("time", EMPTY).values[-10:]
    times = times[np.isfinite(times)]
    seconds = float(times.mean()) if len(times) else None
    if total is not None and done >= total:
        word = "finished"
    elif run.log.ended:
        word = "stopped"
    elif not done:
        word = "not begun"
    else:
        steps = run.scalars.get("loss", EMPTY).steps[-10:]
        line = float(np.diff(steps).max()) if len(steps) > 1 else 1.0
        gap = _LINES * line * (seconds or 0.0)
        word = "running" if (silent or 0.0) <= max(_SILENCE, gap) else "silent"
    left = None
    if word == "running" and total is not None and seconds is not None:
        left = max(0.0, (total - done) * seconds - (silent or 0.0))
    return RunState(word, done, total, left, silent, run.log.ended)


def _position(run: Run) -> tuple[int, int | None]:
    """Iterations made, and in all, by scalars, log and the last checkpoint."""
    done = int(run.scalars.get("loss", EMPTY).steps.max(initial=0))
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


def describe_state(state: RunState, now: float) -> str:
    """Where the run is, in one line."""
    text = state.word.capitalize() + (f" ({state.reason})" if state.reason else "")
    if state.word == "silent":
        text = "No sign of life: stopped, killed, or busy with something long"
    text += f"; iteration {state.done:,}"
    if state.total:
        text += f" of {state.total:,} ({state.done / state.total:.1%})"
    if state.silent is not None:
        written = _duration(state.silent)
        text += f"; last written {written} before this page ({_clock(now)})"
    if state.left is not None and state.left < _MAX_SECONDS:
        end = _clock(now + state.left)
        text += f"; about {_duration(state.left)} to go, until {end}"
    return f"{text}."


def facts(run: Run) -> dict[str, str]:
    """The numbers that one asks for first."""
    rows = {}
    curve = run.curve
    if len(curve.loss):
        rows["last iteration logged"] = f"{int(curve.iterations[-1]):,}"
        rows["first loss logged"] = f"{curve.first():.4f}"
        rows["loss, mean of the last ten logged"] = f"{curve.last():.4f}"
    if "images_per_s" in run.scalars:
        last = run.scalars["images_per_s"].values[-1]
        rows["images per second, last logged"] = f"{last:,.1f}"
    steps, broken = max(run.log.skipped, len(run.not_finite)), len(run.broken)
    rows["warnings in the log"] = f"{len(run.log.warnings):,}"
    rows |= {"steps not made": f"at least {steps:,}"} if steps else {}
    rows |= {"broken images": f"{broken:,}"} if broken else {}
    return rows


def troubles(run: Run) -> tuple[list[tuple[str, str]], str]:
    """What went wrong, a line each, and a word on what is left out."""
    rows, left_out = [], []
    if run.not_finite:
        last = ", ".join(f"{iteration:,}" for iteration in run.not_finite[-10:])
        text = f"{len(run.not_finite):,} records in not_finite, of iteration {last}"
        rows.append(("loss or gradient not finite", text))
    if run.broken:
        rows.append(("broken images", f"{len(run.broken):,}, each replaced by another"))
        rows += run.broken[:_MAX_BROKEN]
    if run.broken[_MAX_BROKEN:]:
        left_out.append(f"{len(run.broken) - _MAX_BROKEN:,} broken images")
    warned = [
        warned
        for warned in run.log.warnings
        if not (run.broken and warned.text.startswith("broken image "))  # has a line
    ]
    rows += [(f"{w.time} {w.level}", w.text[:2000]) for w in warned[-_MAX_WARNINGS:]]
    if warned[:-_MAX_WARNINGS]:
        left_out.append(f"{len(warned) - _MAX_WARNINGS:,} earlier warnings")
    return rows, f"And {' and '.join(left_out)}." if left_out else ""


def starts(run: Run) -> list[tuple[str, str]]:
    """Which iterations each start of a run logged."""
    return [
        (name, f"{scalars['loss'].steps[0]:,.0f} to {scalars['loss'].steps[-1]:,.0f}")
        for name, scalars in run.starts.items()
        if "loss" in scalars
    ]


def _duration(seconds: float) -> str:
    whole = round(min(seconds, _MAX_SECONDS))
    return f"{whole} s" if whole < 120 else str(timedelta(seconds=whole))


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

"""What is known of a run, in words and numbers for people."""

from __future__ import annotations

import time
from datetime import timedelta

from .run_log import Warned
from .run_record import Run
from .run_state import RunState

_MAX_WARNINGS = 40
_MAX_BROKEN = 20
#: Longer than any run; what a damaged log says may be more.
_MAX_SECONDS = 10 * 365 * 86400


def describe_state(run: Run, state: RunState, now: float) -> str:
    """Where the run is, in one line."""
    text = state.word.capitalize() + (f" ({state.reason})" if state.reason else "")
    if state.word == "silent":
        text = "No sign of life: stopped, killed, or busy with something long"
    text += f"; iteration {state.done:,}"
    if state.total:
        text += f" of {state.total:,} ({state.done / state.total:.1%})"
    if run.written is not None and state.silent is not None:
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
    if curve is not None:
        rows["iterations"] = f"{int(curve.iterations[-1]):,}"
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
    warned = [w for w in run.log.warnings if not _is_listed(w, run)]
    rows += [(f"{w.time} {w.level}", w.text[:2000]) for w in warned[-_MAX_WARNINGS:]]
    if warned[:-_MAX_WARNINGS]:
        left_out.append(f"{len(warned) - _MAX_WARNINGS:,} earlier warnings")
    return rows, f"And {' and '.join(left_out)}." if left_out else ""


def starts(run: Run) -> list[tuple[str, str]]:
    """Which iterations each start of a run logged."""
    return [(s.name, f"{s.first:,} to {s.last:,}") for s in run.starts]


def _is_listed(warned: Warned, run: Run) -> bool:
    """Whether a warning is of a broken image, which has its own line."""
    return bool(run.broken) and warned.text.startswith("broken image ")


def _duration(seconds: float) -> str:
    whole = round(min(seconds, _MAX_SECONDS))
    return f"{whole} s" if whole < 120 else str(timedelta(seconds=whole))


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

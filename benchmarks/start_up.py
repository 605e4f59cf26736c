"""Times ``import saim_mm`` on top of what it imports of mmpretrain.

Each round is a process of its own that imports three things in turn: mmpretrain, its
models and data sets, which every training imports, and saim_mm. A first process, which
compiles, does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saim_mm.utils.environment import environment

_PARTS = ("mmpretrain", "its models and data sets", "saim_mm")
_ROUND = """
import json, time
marks = [(time.perf_counter(), time.process_time())]
def mark():
    marks.append((time.perf_counter(), time.process_time()))
import mmpretrain; mark()
import mmpretrain.datasets, mmpretrain.models; mark()
import saim_mm; mark()
print(json.dumps([[b - a for a, b in zip(*pair)] for pair in zip(marks, marks[1:])]))
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("benchmarks start-up", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="processes")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the figures")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds, in seconds by the clock and of the CPU."""
    described = environment(("torch", "mmengine", "mmcv", "mmpretrain", "mmdet"))
    with tempfile.TemporaryDirectory() as cache:
        rounds = [_round(cache) for _ in range(args.rounds + 1)][1:]
    parts = {
        name: {
            "seconds": [round(times[n][0], 4) for times in rounds],
            "median": round(statistics.median(t[n][0] for t in rounds), 4),
            "median_cpu": round(statistics.median(t[n][1] for t in rounds), 4),
        }
        for n, name in enumerate(_PARTS)
    }
    return {**described, "rounds": args.rounds, "parts": parts}


def describe(record: dict[str, Any]) -> str:
    """The medians, a line each."""
    return "\n".join(
        f"{name:26} {part['median']:7.3f} s, {part['median_cpu']:7.3f} s of CPU"
        for name, part in record["parts"].items()
    )


def _round(cache: str) -> list[list[float]]:
    """Seconds by the clock and of the CPU for each part."""
    settings = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _ROUND],
        env=settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])

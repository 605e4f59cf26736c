"""Writes a one-page HTML report of runs: state, curves, pictures, config, machine.

Several runs are shown beside each other. With --live the page is written again and
again while they go on, and a browser that shows it keeps up.

Example:
  saim-mm report work_dirs/saim_vit-b_800e_in1k --images photos -o report.html
  saim-mm report work_dirs/saim_vit-b_800e_in1k --live
  saim-mm report work_dirs/one work_dirs/other -o both.html
"""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_shared

_OUT = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.report`."""
    add = parser.add_argument
    add("work_dir", nargs="+", metavar="DIR", help="work dir of a run")
    add("-o", "--out", default=_OUT, metavar="FILE", help="default: %(default)s")
    add("--images", metavar="FOLDER", help="draw the newest checkpoint's predictions")
    add("--number", type=int, default=6, help="images shown")
    add("--seed", type=int, default=0, help="of the orders")
    add_shared(parser, "--device")
    add("--live", action="store_true", help="until the runs end, or Ctrl-C")
    add("--interval", type=float, default=10.0, help="seconds between pages of --live")


def run(*, work_dir: list[str], out: str, live: bool, **options: Any) -> None:
    """Writes the report and prints where it is.

    Raises:
        ValueError: If two files are named.
    """
    from ..api import report

    if len(work_dir) > 1 and work_dir[-1].endswith(".html"):
        # Where the file could stand before there was --out.
        if out != _OUT:
            raise ValueError(f"{work_dir[-1]} and --out {out}: name one file.")
        *work_dir, out = work_dir
    if live:
        print(f"{out}: look at it in a browser; Ctrl-C ends", flush=True)
    print(report(work_dir, out, live=live, **options))

"""Writes a one-page HTML report of a run: curves, pictures, config, machine.

Example:
  saim-mm report work_dirs/saim_vit-b_800e_in1k report.html --images photos
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.report`."""
    add = parser.add_argument
    add("work_dir", help="work dir of a run")
    add("out", nargs="?", default="report.html", help="default: %(default)s")
    add("--images", metavar="FOLDER", help="draw the newest checkpoint's predictions")
    add("--number", type=int, default=6, help="images shown")
    add("--seed", type=int, default=0, help="of the orders")
    add("--device", help="by default a GPU if there is one")


def run(**options: Any) -> int:
    """Writes the report and prints where it is; returns the exit code."""
    from ..api import report

    print(report(**options))
    return 0

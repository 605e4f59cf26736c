"""Judges an encoder by the nearest neighbours of its features.

Example:
  saim-mm knn encoder.pth data/imagenet --images-per-class 100 -o confusion.png
"""

from __future__ import annotations

import argparse
from typing import Any

from . import _judging
from ._progress import show_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.knn`."""
    _judging.add_arguments(parser)
    _judging.add_neighbours(parser)


def run(**options: Any) -> int:
    """Prints accuracies and frequent mistakes; returns the exit code."""
    from ..api import knn

    with show_progress("images") as progress:
        judgement = knn(**options, progress=progress)
    _judging.print_judgement(judgement, options["out"])
    return 0

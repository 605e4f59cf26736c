"""Judges an encoder by a linear classifier on its features.

Example:
  saim-mm probe encoder.pth data/imagenet --images-per-class 100 -o confusion.png
"""

from __future__ import annotations

import argparse
from typing import Any

from . import _judging
from ._progress import show_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.probe`."""
    _judging.add_arguments(parser)
    _judging.add_recipe(parser)


def run(**options: Any) -> int:
    """Prints accuracies and frequent mistakes; returns the exit code."""
    from ..api import probe

    with show_progress("images") as progress:
        judgement = probe(**options, progress=progress)
    _judging.print_judgement(judgement, options["out"])
    return 0

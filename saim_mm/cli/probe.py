"""Judges an encoder by a linear classifier on its features, or by named probes.

probes:
  knn, linear, linear-best (the layer that is best on held-out images), attentive,
  efficient and rankme, in one pass over the images: docs/probes.md

Example:
  saim-mm probe encoder.pth data/imagenet --images-per-class 100 -o confusion.png
  saim-mm probe encoder.pth data/imagenet --probe knn linear-best attentive
"""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import RECIPE
from .knn import add_judging, print_judgement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.probe`."""
    add_judging(parser, *RECIPE)
    add = parser.add_argument
    add("--probe", dest="probes", nargs="+", default=(), metavar="NAME", help="above")
    add("--layer", type=int, default=-1, help="of knn, linear and rankme of --probe")


def run(out: str | None, **options: Any) -> None:
    """Prints accuracies and frequent mistakes."""
    from ..api import probe

    print_judgement(probe, out, options)

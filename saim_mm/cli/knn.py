"""Judges an encoder by the nearest neighbours of its features.

Example:
  saim-mm knn encoder.pth data/imagenet --images-per-class 100 -o confusion.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._arguments import JUDGING, NEIGHBOURS, add_shared
from ._progress import show_progress

if TYPE_CHECKING:
    from ..evaluation.judge import Judgement

#: Classes that are taken for others, the most frequent ones.
_MISTAKES = 5
#: Figures that are no probe's.
_ABOUT = ("seconds_for_features",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.knn`."""
    add_judging(parser, *NEIGHBOURS)


def add_judging(parser: argparse.ArgumentParser, *own: str) -> None:
    """Adds encoder, folder, picture, how images are read, and what a verb has of it."""
    add_shared(parser, "encoder")
    parser.add_argument("folder", help="has train/<class>/ and val|test/<class>/")
    picture = "draw what was taken for what"
    parser.add_argument("-o", "--out", metavar="FILE.png", help=picture)
    add_shared(parser, *JUDGING, *own)


def run(out: str | None, **options: Any) -> None:
    """Prints accuracies and frequent mistakes."""
    from ..api import knn

    print_judgement(knn, out, options)


def print_judgement(
    judge: Callable[..., Judgement], out: str | None, options: dict[str, Any]
) -> None:
    """Prints accuracies and the most frequent mistakes."""
    from rich.console import Console
    from rich.table import Column, Table

    with show_progress("images") as progress:
        judgement = judge(**options, out=out, progress=progress)
    figures, console = judgement.figures, Console(highlight=False)
    counts = "{classes} classes, {train_images} images to learn from, {val_images} "
    console.print((counts + "to judge").format(**figures), soft_wrap=True)
    named = not judgement.classes
    table = Table("", Column("" if named else "accuracy, %", justify="right"))
    for name, value in figures.items():
        if named and isinstance(value, float) and name not in _ABOUT:
            table.add_row(name, f"{value:.4g}")
        elif "accuracy" in name:
            table.add_row(
                name.replace("_k", ", k = ").replace("_", " "), f"{value:.2f}"
            )
    console.print(table)
    for name, other, number in judgement.mistakes()[:_MISTAKES]:
        console.print(f"{number} of {name!r} taken for {other!r}", markup=False)
    if out:
        console.print(f"written: {out}", markup=False, soft_wrap=True)

"""What ``knn`` and ``probe`` share: arguments, and the table of what was found."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.judge import Judgement

#: Classes that are taken for others, the most frequent ones.
_MISTAKES = 5
#: Figures that are no probe's.
_ABOUT = ("seconds_for_features",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the encoder, the folder and the picture, and :func:`add_options`."""
    add = parser.add_argument
    add("encoder", help="checkpoint of ours, mmpretrain, the authors, MAE, timm or HF")
    add("folder", help="has train/<class>/ and val|test/<class>/")
    add("-o", "--out", metavar="FILE.png", help="draw what was taken for what")
    add_options(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Adds encoder and folder by the names that they have in ``tools``."""
    add = parser.add_argument
    add("checkpoint", help="pretraining checkpoint, or a bare encoder")
    add("data", help="folder with train/<class>/ and val|test/<class>/")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of :func:`saim_mm.evaluation.judge.frozen_features`."""
    add = parser.add_argument
    add(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="split off this share of each class, if there is no val or test folder",
    )
    add("--config", help="config of the checkpoint")
    add("--num-heads", type=int, help="attention heads, if nothing else tells")
    add(
        "--pool",
        choices=("avg", "cls"),
        default="avg",
        help="mean of the patches (default) or class token, of the last block",
    )
    add("--images-per-class", type=int, metavar="N", help="at most N to learn from")
    add("--val-images-per-class", type=int, metavar="N", help="at most N to judge")
    add(
        "--crop-ratio",
        type=float,
        default=224 / 256,
        help="share of the resized image that is seen (default 0.875; 1: all)",
    )
    add("--batch-size", type=int, default=128)
    add("--workers", type=int, default=4, help="loader processes")
    add("--device", help="by default a GPU if there is one")


def add_neighbours(parser: argparse.ArgumentParser) -> None:
    """Adds the options of kNN."""
    add = parser.add_argument
    add("--k", type=int, nargs="+", default=(10, 20), help="numbers of neighbours")
    add("--temperature", type=float, default=0.07, help="of the votes")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the linear probe."""
    add = parser.add_argument
    add("--epochs", type=int, default=90)
    add("--probe-batch-size", type=int, default=256)
    add("--base-lr", type=float, default=0.1, help="at a batch of 256")


def print_judgement(judgement: Judgement, out: str | None) -> None:
    """Prints the accuracies, and the most frequent mistakes."""
    from rich.console import Console
    from rich.table import Column, Table

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

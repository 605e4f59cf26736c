"""Which classes are taken for which."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm

from .figure import Picture, new_figure, render

#: Up to so many classes the cells have numbers.
_NUMBERED = 20
#: Up to so many all are named; of more, so many.
_NAMED = 120
#: Inches of a cell, without and with a number, and of the whole, at most.
_CELL, _NUMBERED_CELL, _LARGEST = 0.14, 0.5, 20.0
_LONGEST = 24


def draw_confusion(
    confusion: np.ndarray, classes: Sequence[str], title: str = ""
) -> Picture:
    """Draws a confusion matrix: a row for each class, of shares that sum to 1.

    Args:
        confusion: Images (C, C) by class, rows, and by what they were taken for.
        classes: Names of the C classes.
        title: What stands above.
    """
    count = len(classes)
    cell = _NUMBERED_CELL if count <= _NUMBERED else _CELL
    side = min(max(cell * count, 2.5), _LARGEST)
    names = [_shown(name) for name in classes]
    margin = 0.5 + 0.08 * max(map(len, names))
    figure = new_figure(side + margin + 1, side + margin + 0.5)
    axes = figure.add_subplot()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)  # a class may have nothing to judge
    # By the square root, or rare mistakes would be as white as none.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    places = range(0, count, -(-count // _NAMED))
    labels, size = [names[n] for n in places], 9 if count <= _NUMBERED else 6
    axes.set_xticks(places, labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, labels, fontsize=size, parse_math=False)
    axes.tick_params(length=2)
    for (row, column), number in np.ndenumerate(confusion):
        if number and count <= _NUMBERED:
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, f"{number}", ha="center", va="center", size=8,
                      color=colour)  # fmt: skip
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="taken for", ylabel="class")
    bar = figure.colorbar(image, shrink=min(1.0, 4 / side), pad=0.02)
    bar.set_ticks([0, 0.01, 0.1, 0.3, 0.6, 1])
    bar.set_label("share of the class")
    return render(figure)


def _shown(name: str) -> str:
    """A name that can be drawn: not too long, and no bytes that are no text."""
    name = os.fsencode(name).decode(errors="replace")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"

"""How good the features of each layer are: a curve by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from .figure import Picture, new_figure, plain_axes, render


def draw_layer_curve(curves: Mapping[str, Sequence[float]]) -> Picture:
    """Accuracy by depth; the best layer of each curve is marked and named.

    Args:
        curves: By name, the accuracy of each layer in percent, on training images that
            were held out.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for name, values in curves.items():
        best = int(np.argmax(values))
        label = f"{name}: layer {best}, {values[best]:.1f} %"
        (line,) = axes.plot(range(len(values)), values, "o-", ms=4, label=label)
        axes.plot(best, values[best], "o", color=line.get_color(), ms=11, mfc="none",
                  mew=2)  # fmt: skip
    axes.set(
        title="Accuracy of a linear probe by depth",
        xlabel="layer, counted from 0",
        ylabel="% of held-out training images",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    plain_axes(axes)
    axes.margins(x=0.03)
    return render(figure)

"""Figures as arrays: what all pictures share.

Figures are made with matplotlib's objects and not with ``pyplot``, whose global state
keeps every figure alive and picks a window system.
"""

from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Pixels per inch; sizes of figures are given in inches.
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, laid out to use the space."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> np.ndarray:
    """Draws a figure of :func:`new_figure`: (H, W, 3) uint8, RGB."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Writes a picture (H, W, 3) uint8 RGB; missing folders are made.

    Raises:
        OSError: If it cannot be written.
    """
    if not mmcv.imwrite(np.ascontiguousarray(image[..., ::-1]), str(path)):
        raise OSError(f"cannot write the picture {str(path)!r}")

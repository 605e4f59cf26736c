"""Figures as arrays: what all pictures share.

Figures are made with matplotlib's objects and not with ``pyplot``, whose global state
keeps every figure alive and picks a window system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

#: (H, W, 3), uint8, RGB.
Picture: TypeAlias = np.ndarray

#: Pixels per inch; sizes of figures are given in inches.
DPI = 160
#: Width of one image on a sheet, in inches: 256 pixels, a multiple of small sizes.
CELL = 1.6
#: Grey of what is not known yet, or hidden.
HIDDEN = 128
#: Of several runs in one plot: matplotlib's, as CSS spells them.
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, laid out to use the space."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def render(figure: Figure) -> Picture:
    """Draws a figure of :func:`new_figure`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def image_sheet(
    columns: Mapping[str, np.ndarray],
    note: str,
    above: float = 0.95,
    beside: float = 0.0,
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """A row per image: columns of pictures and of maps, all of one size.

    Args:
        columns: By title, pictures (B, H, W, 3) or maps (B, rows, columns). The first
            ones say how large all are shown.
        note: What stands below.
        above: Inches for titles and note.
        beside: Inches for more, such as a colour bar.
        **options: Those of ``imshow``.

    Returns:
        The figure and its axes (B, columns).
    """
    count, height, width = next(iter(columns.values())).shape[:3]
    across = len(columns) * (CELL + 0.06) + beside
    figure = new_figure(across, count * (CELL * height / width + 0.06) + above)
    cells = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, images) in zip(cells.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=9)
        for cell, image in zip(column, images, strict=True):
            cell.set_axis_off()
            cell.imshow(image, extent=(0, width, height, 0), **options)
    figure.supxlabel(note, fontsize=8, color="0.35")
    return figure, cells


def plain_axes(axes: Axes) -> None:
    """A light grid and no box around a plot."""
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.01)


def stack(pictures: Sequence[Picture]) -> Picture:
    """Puts pictures below each other, each centred on white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        missing = width - picture.shape[1]
        sides = (missing // 2, missing - missing // 2)
        rows.append(np.pad(picture, ((0, 0), sides, (0, 0)), constant_values=255))
    return np.concatenate(rows)


def save_png(image: Picture, path: str | Path) -> None:
    """Writes a picture; missing folders are made.

    Raises:
        OSError: If it cannot be written.
    """
    if not mmcv.imwrite(np.ascontiguousarray(image[..., ::-1]), str(path)):
        raise OSError(f"cannot write the picture {str(path)!r}")


def save_gif(
    frames: Sequence[Picture], path: str | Path, seconds: float, rest: float = 2.0
) -> None:
    """Writes an endless animation, ``.gif``; missing folders are made.

    The frames, of one size, are shown for so many seconds each, the last one for those
    of the rest.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One palette for all frames, or colours would flicker: that of first and last.
    ends = Image.fromarray(np.concatenate([frames[0], frames[-1]]))
    palette = ends.quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
    durations = [round(1000 * seconds)] * (len(images) - 1) + [round(1000 * rest)]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0
    )

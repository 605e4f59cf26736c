"""The order of a grid and the attention masks that follow from it, as in Figure 5."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from ..models import OrderSampler
from .figure import Picture, new_figure, render
from .reconstruction import STEP_COLOURS, step_maps

#: Hidden, visible.
_MASK_COLOURS = ListedColormap(["#f2f2f2", "#3b6ea5"])
#: Above so many tokens a mask has no lines or numbers; they would cover it.
_MAX_LABELLED = 40


def sorted_masks(family: OrderSampler) -> tuple[np.ndarray, np.ndarray]:
    """The masks of all orders of a family as the model uses them, sorted by the order.

    Returns:
        Content mask (1 + N, 1 + N), class token first, and query mask (N, 1 + N): what
        each query sees of the content tokens. Boolean; ``True`` means "sees".
    """
    order = torch.arange(family.num_patches)[None]
    content, memory = family.plan_of(order).dense()
    return content.numpy(), memory.numpy()


def raster_masks(family: OrderSampler, order: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """:func:`sorted_masks` of an order (N,), with patches in raster order instead."""
    step = order.argsort().cpu().numpy()  # of each patch
    content, query = sorted_masks(family)
    tokens = np.concatenate([[0], 1 + step])
    return content[np.ix_(tokens, tokens)], query[np.ix_(step, tokens)]


def order_sheet(family: OrderSampler, order: Tensor, grid: tuple[int, int]) -> Picture:
    """An order (N,) of a family on the grid (rows, columns), and its masks.

    They are shown in raster order above, and sorted below.
    """
    figure = new_figure(9.6, 8.2)
    cells = figure.subplots(2, 3)
    steps = step_maps(order[None], family, grid)[0]
    _draw_steps(cells[0, 0], steps)
    _draw_path(cells[1, 0], steps, order.cpu().numpy())
    raster = torch.arange(family.num_patches)
    for row, masks, tokens, title in (
        (cells[0], raster_masks(family, order), raster, "patches in raster order"),
        (cells[1], sorted_masks(family), order, "patches sorted by step"),
    ):
        names = ["cls", *(str(int(token) + 1) for token in tokens)]
        row[1].set_title(f"content mask\n{title}", fontsize=9)
        _draw_mask(row[1], masks[0], names, names)
        row[2].set_title(f"query mask\n{title}", fontsize=9)
        _draw_mask(row[2], masks[1], names[1:], names)
    blocks = ", with blocks for segments" if family.segment_length > 1 else ""
    figure.supxlabel(
        "Blue: the token of the row sees that of the column. Patches are numbered row "
        f"by row, from 1.\nSorted by step, the masks are plain triangles{blocks}.",
        fontsize=8,
        color="0.35",
    )
    return render(figure)


def _draw_steps(cell: Axes, steps: np.ndarray) -> None:
    """The step of each patch, as number and colour."""
    cell.set_title("predicted at step", fontsize=9)
    cell.imshow(steps, cmap=STEP_COLOURS, vmin=1, vmax=steps.max())
    cell.set_axis_off()
    size = min(12.0, 90 / max(steps.shape))
    for (row, column), step in np.ndenumerate(steps):
        colour = "white" if step < 0.6 * steps.max() else "black"
        cell.text(column, row, str(step), ha="center", va="center", fontsize=size,
                  color=colour)  # fmt: skip


def _draw_path(cell: Axes, steps: np.ndarray, order: np.ndarray) -> None:
    """The way that the order takes over the grid, from patch to patch."""
    cell.set_title("way over the grid", fontsize=9)
    cell.imshow(np.ones(steps.shape), cmap="gray", vmin=0, vmax=1)
    rows, columns = np.divmod(order, steps.shape[1])
    cell.plot(columns, rows, color="0.75", lw=0.8, zorder=1)
    colours = steps[rows, columns]
    size = min(60.0, 2400 / len(order))
    cell.scatter(columns, rows, c=colours, cmap=STEP_COLOURS, s=size, zorder=2)
    _draw_lines(cell, steps.shape)


def _draw_mask(cell: Axes, mask: np.ndarray, rows: list, columns: list) -> None:
    cell.imshow(mask, cmap=_MASK_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    if max(mask.shape) > _MAX_LABELLED:
        cell.set(xticks=[], yticks=[])
        return
    _draw_lines(cell, mask.shape)
    size = min(8.0, 130 / max(mask.shape))
    cell.set_xticks(range(len(columns)), columns, fontsize=size, rotation=90)
    cell.set_yticks(range(len(rows)), rows, fontsize=size)
    cell.tick_params(length=0)


def _draw_lines(cell: Axes, shape: tuple[int, ...]) -> None:
    """Lines between the fields of a grid."""
    cell.set(xticks=[], yticks=[])
    colour = "white" if shape[0] > 30 else "0.8"
    for draw, count in ((cell.axhline, shape[0]), (cell.axvline, shape[1])):
        for number in range(count + 1):
            draw(number - 0.5, color=colour, lw=0.5)

"""Attention in windows, for dense tasks at high resolution (Li et al. 2021).

Shapes: a grid of (rows, columns) tokens is cut into W windows of s x s. Where s does
not divide the grid, the bottom and the right are padded with zeros, which real tokens
can see, as in ViTDet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Windows:
    """How the tokens of a grid are cut into windows.

    Attributes:
        grid: Rows and columns of the token grid.
        size: Rows, and columns, of a window.
    """

    grid: tuple[int, int]
    size: int

    @property
    def _counts(self) -> tuple[int, int]:
        """Windows down and across."""
        # Of positive numbers, as ONNX rounds a quotient of integers towards zero.
        rows, columns = (side + self.size - 1 for side in self.grid)
        return rows // self.size, columns // self.size

    def split(self, x: Tensor) -> Tensor:
        """(B, rows * columns, D) -> (B * W, s * s, D)."""
        (rows, columns), (down, across) = self.grid, self._counts
        x = x.unflatten(1, self.grid)
        missing = (down * self.size - rows, across * self.size - columns)
        if any(missing):
            x = F.pad(x, (0, 0, 0, missing[1], 0, missing[0]))
        x = x.unflatten(2, (across, self.size)).unflatten(1, (down, self.size))
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """(B * W, s * s, D) -> (B, rows * columns, D); the inverse of :meth:`split`."""
        (rows, columns), (down, across) = self.grid, self._counts
        x = x.unflatten(1, (self.size, self.size)).unflatten(0, (-1, down, across))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x[:, :rows, :columns].flatten(1, 2)


class RelativePositionBias(nn.Module):
    """A learnt bias for each head and each offset between two tokens.

    It starts at zero, so an encoder that was pretrained without it begins unchanged.

    Args:
        grid: Rows and columns of the tokens that attend to each other.
        num_heads: Number of attention heads H.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        offsets = (2 * grid[0] - 1, 2 * grid[1] - 1)
        self.table = nn.Parameter(torch.zeros(num_heads, *offsets))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """The bias between all tokens of a grid, which may differ from the built one.

        Args:
            grid: Rows and columns; for another grid the table is resized bilinearly.

        Returns:
            (1, H, L, L) with L = rows * columns; entry (i, j) is added to the score
            with which token i attends to token j.
        """
        offsets = (2 * grid[0] - 1, 2 * grid[1] - 1)
        table: Tensor = self.table
        if table.shape[1:] != offsets:
            table = F.interpolate(table[None], offsets, mode="bilinear")[0]
        row, column = (
            place[:, None] - place[None, :] + len(place) - 1
            for place in (torch.arange(n, device=table.device) for n in grid)
        )
        # (rows, rows) x (columns, columns) -> (H, rows, columns, rows, columns)
        bias = table[:, row[:, None, :, None], column[None, :, None, :]]
        return bias.flatten(3, 4).flatten(1, 2)[None]

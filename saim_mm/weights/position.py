"""Position embeddings for another grid, square or not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from .files import CheckpointError

Grid = tuple[int, int]


def fit_position_embedding(
    state: Mapping[str, Tensor], prefix: str, grid: Grid, extra_tokens: int, mode: str
) -> Tensor:
    """The position embedding of a checkpoint, for the model's grid and tokens.

    mmpretrain's own hook takes every checkpoint for square, and fails if the model has
    no class token and another size.

    Args:
        state: The checkpoint's state dict, which has ``pos_embed`` under the prefix.
        prefix: What precedes the encoder's keys.
        grid: Rows and columns of the model's patches.
        extra_tokens: 1 if the model has a class token, else 0.
        mode: Interpolation mode of ``torch.nn.functional.interpolate``.

    Returns:
        (1, extra_tokens + rows * columns, D).

    Raises:
        CheckpointError: If the checkpoint's grid cannot be told.
    """
    pos_embed = state[f"{prefix}pos_embed"]
    has_row = has_class_row(state, prefix, math.prod(grid))
    if extra_tokens and not has_row:
        return pos_embed  # the load will report the missing class token
    if has_row and not extra_tokens:
        pos_embed = pos_embed[:, 1:]
    source = infer_grid(pos_embed[0, extra_tokens:], grid)
    return resize_pos_embed(pos_embed, source, grid, mode, extra_tokens)


def has_class_row(state: Mapping[str, Tensor], prefix: str, patches: int) -> bool:
    """Whether the first row of a position embedding is that of a class token.

    It is if there is a class token. The odd case is a checkpoint from which somebody
    dropped the token but not its row: told by one row more than the model's patches,
    or, for another grid than the model's, by a count of rows that is no square.

    Args:
        state: The checkpoint's state dict, which has ``pos_embed`` under the prefix.
        prefix: What precedes the encoder's keys.
        patches: Number of the model's patches.
    """
    if f"{prefix}cls_token" in state:
        return True
    rows = state[f"{prefix}pos_embed"].shape[1]
    is_square = math.isqrt(rows) ** 2 == rows
    return rows != patches and (rows - 1 == patches or not is_square)


def infer_grid(positions: Tensor, like: Grid | None = None) -> Grid:
    """Rows and columns of the patches that a position embedding belongs to.

    In this order: what its values tell, if it is still the sine-cosine one of
    pretraining; ``like``, if the count is the same; a square; the aspect of ``like``.

    Args:
        positions: The patches' position embedding (N, D), in raster order.
        like: The grid of the model that loads it.

    Returns:
        Rows and columns, with rows * columns = N.

    Raises:
        CheckpointError: If none of these gives a grid.
    """
    count = len(positions)
    columns = _sincos_columns(positions)
    if columns is not None:
        return count // columns, columns
    if like is not None and math.prod(like) == count:
        return like
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    if like is not None:
        rows = round(math.sqrt(count * like[0] / like[1]))
        if rows and count % rows == 0 and rows * like[1] == count // rows * like[0]:
            return rows, count // rows
    raise CheckpointError(
        f"pos_embed has {count} patches, which is no square, and its values do not "
        f"tell its grid; the model's grid is {like}. Load it into a model with the "
        "img_size it was trained with, or one of the same aspect; the converters know "
        "square grids and sine-cosine embeddings only."
    )


def _sincos_columns(positions: Tensor) -> int | None:
    """Columns of a sine-cosine embedding, or ``None`` if it is none.

    Its first half depends on the column only, so it repeats from row to row.
    """
    half = positions[:, : positions.shape[1] // 2].float()
    count = len(half)
    for columns in range(2, count):
        if count % columns == 0 and torch.allclose(
            half[columns:], half[:-columns], rtol=0, atol=1e-6
        ):
            # Rows of equal values are no grid but an embedding that was never set.
            return None if torch.equal(half[0], half[1]) else columns
    return None

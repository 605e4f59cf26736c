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
    num_tokens, num_patches = pos_embed.shape[1], math.prod(grid)
    has_cls = f"{prefix}cls_token" in state or (
        # Somebody dropped the class token but not its row.
        num_tokens != num_patches
        and (num_tokens - 1 == num_patches or math.isqrt(num_tokens) ** 2 != num_tokens)
    )
    if has_cls and not extra_tokens:
        pos_embed = pos_embed[:, 1:]
    elif extra_tokens and not has_cls:
        return pos_embed  # the load will report the missing class token
    source = infer_grid(pos_embed[0, extra_tokens:], grid)
    return resize_pos_embed(pos_embed, source, grid, mode, extra_tokens)


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

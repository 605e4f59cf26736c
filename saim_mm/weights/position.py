"""Position embeddings: of sines and cosines, and for another grid, square or not.

A state dict of :class:`SAIMViT` says what grid its positions have, in the metadata that
torch keeps beside the keys.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from .files import CheckpointError, StateDict

Grid = tuple[int, int]
#: Name of the note among the metadata of the encoder.
_NOTE = "grid"


def note_grid(module: Any, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Keeps the grid of an encoder in its state dict; a hook of ``state_dict``."""
    metadata[_NOTE] = list(module.patch_resolution)


def noted_grid(metadata: Any, prefix: str = "") -> Grid | None:
    """The grid that the metadata of a state dict, by module, says; or ``None``."""
    own = metadata.get(prefix.rstrip(".")) if isinstance(metadata, Mapping) else None
    grid = own.get(_NOTE) if isinstance(own, Mapping) else None
    if isinstance(grid, (list, tuple)) and [type(n) for n in grid] == [int, int]:
        return (grid[0], grid[1]) if min(grid) > 0 else None
    return None


def sincos_position_embedding(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D sine-cosine position embedding, as in the authors' release.

    mmpretrain has one too, but it takes row and column the other way round, and on a
    grid that is not square it numbers the patches column by column.

    Args:
        grid: Rows and columns.
        width: Number of channels D. One quarter each is sine and cosine of the column,
            then sine and cosine of the row.

    Returns:
        (rows * columns, D), patches in raster order.

    Raises:
        ValueError: If the width is not a multiple of 4.
    """
    check_width(width)
    row, column = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )
    quarter = width // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = [axis.reshape(-1, 1) * omega for axis in (column, row)]
    parts = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()


def check_width(width: int) -> None:
    """Refuses a number of channels that has no sine-cosine position embedding."""
    if width % 4:
        raise ValueError(
            f"embed_dims={width} has no 2-D sine-cosine position embedding; "
            "it must be a multiple of 4."
        )


def fit_position_embedding(
    state: Mapping[str, Tensor],
    prefix: str,
    grid: Grid,
    extra_tokens: int,
    mode: str,
    source: Grid | None = None,
    same_model: bool = True,
) -> Tensor:
    """The position embedding of a checkpoint, for the model's grid and tokens.

    mmpretrain's own hook takes every checkpoint for square, and fails if the model has
    no class token and another size.

    Args:
        state: The checkpoint's state dict.
        prefix: What precedes the encoder's keys in it, such as ``pos_embed``.
        grid: Rows and columns of the model's patches.
        extra_tokens: How many tokens the model has in front of all patches.
        mode: Interpolation mode of ``torch.nn.functional.interpolate``.
        source: The checkpoint's grid, where it is known.
        same_model: Whether as many positions as the model's are on the model's grid.

    Returns:
        (1, extra_tokens + rows * columns, D).

    Raises:
        CheckpointError: If the checkpoint's grid cannot be told.
    """
    pos_embed = state[f"{prefix}pos_embed"]
    has_row = has_class_row(state, prefix, math.prod(source or grid))
    if extra_tokens and not has_row:
        return pos_embed  # the load will report the missing class token
    if has_row and not extra_tokens:
        pos_embed = pos_embed[:, 1:]
    positions = pos_embed[0, extra_tokens:]
    found = infer_grid(positions, grid, source, same_model)
    return resize_pos_embed(pos_embed, found, grid, mode, extra_tokens)


def has_class_row(state: Mapping[str, Tensor], prefix: str, patches: int) -> bool:
    """Whether the first row of a position embedding is that of a class token.

    It is if there is a class token, or registers. The odd case is a checkpoint from
    which somebody dropped the token but not its row: told by one row more than there
    are patches, or, for another grid than the model's, by a count of rows that is no
    square. ``patches`` is the checkpoint's number of them, or else the model's.
    """
    if f"{prefix}cls_token" in state or f"{prefix}registers" in state:
        return True
    pos_embed = state[f"{prefix}pos_embed"][0]
    rows = len(pos_embed)
    if rows == patches or _sincos_grid(pos_embed):
        return False
    return rows - 1 == patches or math.isqrt(rows) ** 2 != rows


def infer_grid(
    positions: Tensor,
    like: Grid | None = None,
    noted: Grid | None = None,
    same_model: bool = True,
) -> Grid:
    """Rows and columns of the patches that a position embedding belongs to.

    In this order: what the checkpoint or the config says; what the values tell, if they
    are still the sine-cosine ones of pretraining; ``like``, for the same model; the one
    reading that the count allows, which the log states.

    Args:
        positions: The patches' position embedding (N, D), in raster order.
        like: The grid of the model that loads it.
        noted: The grid that is known; it counts if it has N patches.
        same_model: Whether as many patches as those of ``like`` are on that grid.

    Returns:
        Rows and columns, with rows * columns = N.

    Raises:
        CheckpointError: If none of these gives a grid, or the count gives several.
    """
    count = len(positions)
    for grid in (noted, _sincos_grid(positions), like if same_model else None):
        if grid is not None and math.prod(grid) == count:
            return grid
    readings = _readings(count, like)
    said = " or ".join(f"{rows} x {columns}" for rows, columns in readings)
    if len(readings) == 1:
        print_log(f"pos_embed: {count} patches, taken for {said}.", logger="current")
        return readings[0]
    raise CheckpointError(
        f"pos_embed has {count} patches: {said or 'no square'}? Neither the checkpoint "
        f"nor its values tell the grid; the model's is {like}. Give the one that it "
        "was trained with, such as model.backbone.init_cfg.grid=(14, 14), or load it "
        "into a model with the img_size it was trained with; the converters know "
        "square grids, sine-cosine embeddings and files that name their grid."
    )


def _readings(count: int, like: Grid | None) -> list[Grid]:
    """Grids of so many patches: a square, the aspect of a model, or a line as it is."""
    found = {(math.isqrt(count), math.isqrt(count))}
    if like:
        rows = round(math.sqrt(count * like[0] / like[1]))
        columns = count // max(rows, 1)
        found |= {(rows, columns)} if rows * like[1] == columns * like[0] else set()
    if like and like[0] != like[1] and 1 in like:
        found.add((count, 1) if like[1] == 1 else (1, count))
    return sorted(grid for grid in found if math.prod(grid) == count > 0)


def copy_note(source: Mapping[str, Tensor], target: StateDict) -> StateDict:
    """Keeps what a state dict says of its grid after a change of names."""
    metadata = getattr(source, "_metadata", None)
    for prefix in _encoders(source):
        if grid := noted_grid(metadata, prefix):
            return with_note(target, grid)
    return target


def with_note(state: StateDict, grid: Grid) -> StateDict:
    """A state dict that says what grid its positions have."""
    noted = OrderedDict(state)
    note = {prefix.rstrip("."): {_NOTE: list(grid)} for prefix in _encoders(state)}
    noted._metadata = note  # type: ignore[attr-defined]
    return noted


def _encoders(state: Mapping[str, Tensor]) -> list[str]:
    """What precedes the keys of each encoder in a state dict."""
    return [k.removesuffix("pos_embed") for k in state if k.endswith("pos_embed")]


def _sincos_grid(positions: Tensor) -> Grid | None:
    """The grid of a sine-cosine embedding (N, D), or ``None`` if it is none.

    Its first half depends on the column only and its second on the row only. An
    embedding of equal values would fit every grid: it was never set.
    """
    count, width = positions.shape
    halves = positions.float().split([width // 2, width - width // 2], dim=1)
    fitting = []
    for rows in (n for n in range(1, count + 1) if count % n == 0):
        by_column, by_row = (half.reshape(rows, count // rows, -1) for half in halves)
        if _is_near(by_column, by_column[:1]) and _is_near(by_row, by_row[:, :1]):
            fitting.append((rows, count // rows))
    return fitting[0] if len(fitting) == 1 else None


def _is_near(values: Tensor, first: Tensor) -> bool:
    return torch.allclose(values, first.expand_as(values), rtol=0, atol=1e-6)

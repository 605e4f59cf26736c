"""What a patch attends to, as in Figures 2 and 4 of the paper.

Shapes: B images, H heads, L tokens (class token first), N patches.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models import SAIMViT
from ..models.plan import Mask
from ..utils.model_state import evaluation_mode
from .figure import Picture, image_sheet, render

#: Reference points (P, 2), as shares of the width and of the height, in [0, 1).
Points = Sequence[tuple[float, float]]
#: A colour per point, told apart by the colour-blind too.
_POINT_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#d55e00", "#f0e442")


@torch.no_grad()
def last_attention(backbone: SAIMViT, images: Tensor) -> Tensor:
    """Attention of the last layer when the encoder sees the whole image.

    It is the encoder as it is used after pretraining: with the mask that it has then,
    if any, and with its rotary positions and norms of queries and keys.

    Args:
        backbone: The encoder; it is used in evaluation mode and left as it was.
        images: As the model reads them, after its data preprocessor (B, C, H, W).

    Returns:
        (B, H, L, L), float32; row i is what token i attends to, and sums to one.

    Raises:
        ValueError: If the last layer attends within windows.
    """
    layer, seen = backbone.layers[-1], []
    attend = layer.attend

    def attend_and_keep(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        seen.append((q.float(), k.float(), mask))
        return attend(q, k, v, mask)

    layer.attend = attend_and_keep
    try:
        with evaluation_mode(backbone):
            backbone(images)
    finally:
        del layer.attend
    ((q, k, mask),) = seen
    if len(q) != len(images):
        raise ValueError(
            "The last layer attends within windows, so that there is no map of the "
            f"whole image; set global_attn_indexes=({backbone.num_layers - 1},)."
        )
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask.attn_mask is not None and mask.attn_mask.is_floating_point():  # a bias
        return (scores + mask.attn_mask).softmax(dim=-1)
    sees = mask.dense(q.shape[2], k.shape[2]).to(scores.device)
    return scores.masked_fill(~sees, -torch.inf).softmax(dim=-1)


def attention_maps(backbone: SAIMViT, images: Tensor, points: Points) -> np.ndarray:
    """How much the patch at each point attends to all others, the mean over heads.

    Returns:
        (B, P, rows, columns), float32; see :func:`last_attention`.

    Raises:
        ValueError: If a point lies outside of the image.
    """
    rows, columns = backbone.patch_resolution
    patches = [patch_at(point, (rows, columns)) for point in points]
    extra = backbone.num_extra_tokens
    attention = last_attention(backbone, images).mean(dim=1)
    maps = attention[:, [extra + patch for patch in patches]]
    maps = maps[:, :, extra : extra + rows * columns]  # a class token may stand last
    return maps.unflatten(2, (rows, columns)).cpu().numpy()


def patch_at(point: tuple[float, float], grid: tuple[int, int]) -> int:
    """Raster index of the patch at a point (x, y) of [0, 1) x [0, 1).

    Raises:
        ValueError: If the point lies outside.
    """
    x, y = point
    if not (0 <= x < 1 and 0 <= y < 1):
        raise ValueError(
            f"point {x:g},{y:g} lies outside of the image; shares of width and height "
            "must be at least 0 and less than 1."
        )
    return int(y * grid[0]) * grid[1] + int(x * grid[1])


def attention_sheet(
    originals: np.ndarray,
    maps: Mapping[str, np.ndarray],
    points: Points,
    title: str = "original",
) -> Picture:
    """A row per image: the original with its points, then a map per point and model.

    Args:
        originals: The images (B, H, W, 3), uint8, RGB.
        maps: By the title of a model, its :func:`attention_maps`. The models may have
            patches of different sizes.
        points: The reference points.
        title: That of the originals.

    Returns:
        The picture; each map has a colour scale of its own, from zero to its largest
        value.
    """
    columns = {title: originals}
    for number in range(len(points)):
        heading = f"point {number + 1}\n" if len(points) > 1 else ""
        columns |= {heading + name: values[:, number] for name, values in maps.items()}
    note = (
        "Attention of the last layer from the marked patch, mean over heads. Bright: "
        "attended to. The encoder sees the whole image."
    )
    note = textwrap.fill(note, 23 * len(columns))
    figure, cells = image_sheet(columns, note, cmap="inferno", vmin=0)
    height, width = originals.shape[1:3]
    for row in cells:
        for number, (x, y) in enumerate(points):
            colour = _POINT_COLOURS[number % len(_POINT_COLOURS)]
            at = (x * width, y * height)
            row[0].plot(*at, "o", ms=7, mfc=colour, mec="white", mew=1.5)
            for cell in row[1 + number * len(maps) :][: len(maps)]:
                # A ring: the map shows through.
                cell.plot(*at, "o", ms=8, mfc="none", mec=colour, mew=2)
    return render(figure)

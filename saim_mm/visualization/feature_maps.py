"""Which patches an encoder takes for alike: their features as colours.

Shapes: B images, N patches, D channels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models import SAIM, SAIMViT
from ..utils.model_state import evaluation_mode
from .figure import Picture, image_sheet, render
from .reconstruction import original_title, to_rgb

#: Of each component; what lies outside is clipped.
_PERCENTILES = (0.02, 0.98)


@torch.no_grad()
def layer_patches(
    backbone: SAIMViT, images: Tensor, layers: Collection[int]
) -> dict[int, Tensor]:
    """What layers make of patches when the encoder sees the whole image.

    Args:
        backbone: The encoder; it is used in evaluation mode and left as it was.
        images: As the model reads them, after its data preprocessor (B, C, H, W).
        layers: Counted from 0.

    Returns:
        By layer, (B, N, D), float32.
    """
    found: dict[int, Tensor] = {}
    extra = backbone.num_extra_tokens
    with evaluation_mode(backbone), ExitStack() as handles:
        for i in layers:

            def keep(_layer: Any, _inputs: Any, output: Tensor, i: int = i) -> None:
                found[i] = output[:, extra:].float()

            handles.enter_context(backbone.layers[i].register_forward_hook(keep))
        backbone(images)
    return found


def mean_by_place(
    backbone: SAIMViT, batches: Sequence[Tensor], layers: Collection[int]
) -> dict[int, Tensor]:
    """By layer, the mean feature of the patch at each place (N, D), over all images."""
    sums = {layer: torch.tensor(0.0) for layer in layers}
    for batch in batches:
        for layer, patches in layer_patches(backbone, batch, layers).items():
            sums[layer] = sums[layer].to(patches) + patches.sum(dim=0)
    return {layer: total / sum(map(len, batches)) for layer, total in sums.items()}


def pca_colours(patches: Tensor, positions: Tensor | None = None) -> np.ndarray:
    """The first three principal components of patches, as red, green and blue.

    They are those of all images together, so that a colour means the same in each.
    Each component is stretched from its 2nd to its 98th percentile; the channel that
    weighs most in it counts positive, so that colours do not flip from run to run.

    Args:
        patches: Features (B, N, D).
        positions: What is subtracted first, such as the mean feature at each place
            over many images (N, D): features of predictors of pixels say foremost where
            a patch lies.

    Returns:
        (B, N, 3), in [0, 1].
    """
    rows = (patches if positions is None else patches - positions).flatten(0, 1)
    rows = rows.double() - rows.double().mean(dim=0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    directions = directions[:3]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    parts = rows @ (directions * directions.gather(1, largest).sign()).T
    share = torch.tensor(_PERCENTILES, dtype=parts.dtype, device=parts.device)
    low, high = parts.quantile(share, dim=0)
    colours = ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    missing = 3 - colours.shape[1]  # of fewer patches or channels than three
    colours = torch.nn.functional.pad(colours, (0, missing))
    return colours.unflatten(0, patches.shape[:2]).cpu().numpy()


def feature_sheet(
    originals: np.ndarray,
    maps: Mapping[str, np.ndarray],
    note: str = "",
    title: str = "original",
) -> Picture:
    """A row per image: the original, then its maps.

    Args:
        originals: The images (B, H, W, 3), uint8, RGB.
        maps: By title, colours (B, rows, columns, 3) or one value for each patch
            (B, rows, columns), such as its attention.
        note: What to say below besides what the colours are.
        title: That of the originals.
    """
    text = (
        "Colours: the first three principal components of the features of all patches "
        f"shown; alike is what has the same colour. {note}"
    )
    columns = {title: originals, **maps}
    text = textwrap.fill(text, 23 * len(columns))
    figure, _ = image_sheet(columns, text, cmap="inferno", interpolation="nearest")
    return render(figure)


def feature_maps(
    backbone: SAIMViT,
    images: Tensor,
    layers: Collection[int] | None = None,
    positions: Mapping[int, Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """By title, :func:`pca_colours` of :func:`layer_patches`, as maps.

    Args:
        backbone: The encoder; it is left as it was.
        images: (B, C, H, W), after the data preprocessor.
        layers: Counted from 0; by default the middle one and the last.
        positions: What is subtracted, by layer.

    Returns:
        (B, rows, columns, 3) each, in [0, 1].
    """
    grid = tuple(backbone.patch_resolution)
    chosen = default_layers(backbone) if layers is None else sorted(set(layers))
    patches = layer_patches(backbone, images, chosen)
    maps = {}
    for i in chosen:
        colours = pca_colours(patches[i], (positions or {}).get(i))
        maps[f"features of layer {i}"] = colours.reshape(len(images), *grid, -1)
    return maps


def default_layers(backbone: SAIMViT) -> list[int]:
    """The middle layer and the last one, counted from 0."""
    depth = len(backbone.layers)
    return sorted({depth // 2, depth - 1})


def feature_picture(
    model: SAIM,
    images: Tensor,
    layers: Collection[int] | None = None,
    many: Sequence[Tensor] = (),
    note: str = "",
    more: Mapping[str, np.ndarray] | None = None,
) -> Picture:
    """:func:`feature_sheet` of :func:`feature_maps`, and of more maps before these.

    ``many`` batches of images give the mean at each place, which is subtracted.
    """
    backbone, given = model.backbone, model.data_preprocessor
    chosen = default_layers(backbone) if layers is None else layers
    positions = mean_by_place(backbone, many, chosen) if many else None
    maps = {**(more or {}), **feature_maps(backbone, images, chosen, positions)}
    return feature_sheet(to_rgb(images, given), maps, note, original_title(given))
